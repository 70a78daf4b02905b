"""Put Hiera into a config of mmdet or mmseg that works with another backbone."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import hiera_mm  # noqa: F401  before the toolboxes: it supplies mmcv's operators
from benchmarks.studies.survey import run_survey
from hiera_mm.errors import run_tool
from hiera_mm.swap.swapping import check_arch, prepare, read
from hiera_mm.swap.write import check_out, default_out


def main() -> None:
    """Parse the command line; swap one config, or find out which of many can be swapped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config',
        nargs='?',
        help='a config file, or the name of one that mmdet or mmseg ships, such as '
        'mmdet/mask_rcnn/mask-rcnn_r50_fpn_1x_coco; with --survey a folder of configs (all that '
        'are shipped)',
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
    survey = parser.add_argument_group('survey')
    survey.add_argument(
        '--survey', action='store_true', help='try many configs, and write a table instead'
    )
    survey.add_argument('--work-dir', type=Path, default=Path('work_dirs/swap_survey'))
    survey.add_argument(
        '--workers', type=int, default=os.cpu_count(), help='processes of one thread (all cores)'
    )
    survey.add_argument('--fresh', action='store_true', help='forget what was done before')
    args = parser.parse_args()
    if args.workers < 1:
        parser.error('--workers must be at least 1')
    if args.survey:
        folder = None if args.config is None else Path(args.config)
        check_arch(args.arch, None)
        report = run_survey(folder, args.arch, args.work_dir, args.workers, fresh=args.fresh)
        print(report)
        return
    if args.config is None:
        parser.error('a config is needed, or --survey')
    check_arch(args.arch, args.weights)
    original = read(args.config)
    out = check_out(args.out or default_out(original.file, args.arch), force=args.force)
    print(f'Trying {original.file.stem} with Hiera ...', flush=True)
    swapped = prepare(original, args.arch, weights=args.weights, keep_schedule=args.keep_schedule)
    print(f'Written: {swapped.write(out, force=args.force)}\n')
    print(swapped.text(out))
    if swapped.prediction_error is not None:
        print(f'It does not predict, and neither does the original: {swapped.prediction_error}')


if __name__ == '__main__':
    run_tool(main)
