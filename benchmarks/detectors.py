"""Time whole detectors or segmenters side by side: images a second, and where the time goes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    """Parse the command line and run."""
    from benchmarks.kit import options

    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Models are built with random weights; no data set and no checkpoint is read. All '
        'detectors are made to see the same objects.',
    )
    parser.add_argument(
        'configs',
        nargs='+',
        metavar='config',
        help='config files of mmdet or mmseg, or names of such that these ship; the first is what '
        'the others are compared with',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='what all pipelines resize to, in pixels (what each config says)',
    )
    parser.add_argument(
        '--photo',
        type=int,
        nargs=2,
        default=(480, 640),
        metavar=('HEIGHT', 'WIDTH'),
        help='the image in the file (480 640)',
    )
    options.add_machine(parser, dtypes=('float32', 'bfloat16'))
    options.add_rounds(parser, rounds=10, warmups=2)
    parser.add_argument(
        '--objects',
        type=options.at_least(0),
        default=100,
        help='how many objects the detectors see, at most (%(default)s)',
    )
    parser.add_argument('--train', action='store_true', help='time training iterations instead')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/benchmark_detector'))
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=(),
        metavar='KEY=VALUE',
        help='override settings of the configs',
    )
    args = parser.parse_args()

    from hiera_mm.errors import run_tool

    run_tool(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Time the configs, and write table, CSV and picture."""
    from benchmarks.kit.options import say
    from benchmarks.kit.tables import write_csv
    from benchmarks.models.measuring import measure, read_all
    from benchmarks.models.report import csv_rows, describe, draw_results, results_table
    from hiera_mm.engine.launch import check_device, make_folder
    from hiera_mm.trial.configs import parse_size

    args.size = None if args.size is None else parse_size(args.size)
    check_device(args.device)
    configs = read_all(args.configs, args.cfg_options)
    folder = make_folder(args.work_dir)  # so that a wrong path shows before all the work
    results = measure(configs, args, say)
    about, table = describe(args), results_table(results)
    write_csv(folder / 'detectors.csv', csv_rows(results))
    draw_results(results, about, folder / 'detectors.png')
    (folder / 'detectors.md').write_text(f'{about}\n\n{table}\n', encoding='utf-8')
    print(f'{about}\n\n{table}\n\ntable, CSV and picture: {folder}')


if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # `benchmarks` is not installed
    main()
