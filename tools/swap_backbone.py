"""Put Hiera into a config of mmdet or mmseg that works with another backbone."""

from __future__ import annotations

import argparse
from pathlib import Path


def parse_args() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config',
        help='a config file, or the name of one that mmdet or mmseg ships, such as '
        'mmdet/mask_rcnn/mask-rcnn_r50_fpn_1x_coco',
    )
    parser.add_argument('--arch', default='base', help='the Hiera (%(default)s)')
    parser.add_argument(
        '--weights', help='its weights: a path, a URL, or a name of `python -m hiera_mm.weights`'
    )
    parser.add_argument('--out', type=Path, help='file to write (named after the config)')
    parser.add_argument('--force', action='store_true', help='replace the file if there is one')
    parser.add_argument(
        '--keep-schedule',
        action='store_true',
        help='leave optimiser, learning rates and schedule as they are',
    )
    parser.add_argument(
        '--no-trial',
        action='store_true',
        help='do not try the model: for those that need a GPU, or ground truth of another kind',
    )
    parser.add_argument(
        '--full',
        action='store_true',
        help='write all of the config, for another machine; not only what differs',
    )
    return parser.parse_args()


def swap(args: argparse.Namespace) -> None:
    """Swap the backbone, and write and print the new config."""
    import hiera_mm  # noqa: F401  before the toolboxes: it supplies mmcv's operators
    from hiera_mm.swap.swapping import check_arch, prepare, read
    from hiera_mm.swap.write import check_out, default_out

    check_arch(args.arch, args.weights)
    original = read(args.config)
    out = check_out(args.out or default_out(original.file, args.arch), force=args.force)
    if not args.no_trial:
        print(f'Trying {original.file.stem} with Hiera ...', flush=True)
    swapped = prepare(
        original,
        args.arch,
        weights=args.weights,
        keep_schedule=args.keep_schedule,
        trial=not args.no_trial,
    )
    print(f'Written: {swapped.write(out, force=args.force, full=args.full)}\n')
    if args.full:
        print('From the original it differs so:\n')
    print(swapped.text(out))
    if swapped.prediction_error is not None:
        print(f'It does not predict, and neither does the original: {swapped.prediction_error}')


def main() -> None:
    """Parse the command line and swap."""
    args = parse_args()

    from hiera_mm.errors import run_tool

    run_tool(lambda: swap(args))


if __name__ == '__main__':
    main()
