"""Draw what a backbone makes of images: its features as colours, its attention as heat."""

from __future__ import annotations

import argparse
import json


def parse_args() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'checkpoint', help='a path, a URL or a short name such as release://tiny/mae_in1k'
    )
    parser.add_argument('images', nargs='+', metavar='image', help='an image, or a folder of them')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for the figures')
    parser.add_argument(
        '--beside',
        nargs='+',
        default=[],
        metavar='CHECKPOINT',
        help="more checkpoints, each a row of the figures; 'random' for one that learnt nothing",
    )
    parser.add_argument(
        '--arch',
        type=lambda text: json.loads(text) if text.startswith('{') else text,
        default='auto',
        help='the architecture, if the weights do not tell it: a name, or its fields as JSON',
    )
    parser.add_argument('--prefix', help='what stands before the names in the first checkpoint')
    parser.add_argument(
        '--size', type=int, default=512, help='pixels of the longer side (%(default)s)'
    )
    parser.add_argument(
        '--point',
        type=float,
        nargs=2,
        default=(0.5, 0.5),
        metavar=('X', 'Y'),
        help='whose attention is shown, in parts of width and height (the centre)',
    )
    parser.add_argument('--device', help='e.g. cpu or cuda:0 (a GPU if there is one)')
    return parser.parse_args()


def main() -> None:
    """Parse the command line and draw; the exit code is 1 if an image could not be drawn."""
    args = vars(parse_args())

    import hiera_mm  # noqa: F401  before the toolboxes: it supplies mmcv's operators
    from hiera_mm.engine import draw_features, run_tool

    run_tool(lambda: draw_features(**args).report(args['out'], 'figures'))


if __name__ == '__main__':
    main()
