"""Time whole detectors or segmenters side by side: images a second, and where the time goes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction

import hiera_mm  # noqa: F401  before the toolboxes: it supplies mmcv's operators
from benchmarks.detectors.measuring import Setting, measure, read_all
from benchmarks.detectors.report import describe, draw_results, results_table, write_csv
from hiera_mm.cost.measure import DTYPES
from hiera_mm.cost.sizes import parse_size
from hiera_mm.engine.launch import make_folder
from hiera_mm.errors import run_tool


def main() -> None:
    """Parse the command line, time the configs, and write table, CSV and picture."""
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
        default=Setting.photo,
        metavar=('HEIGHT', 'WIDTH'),
        help='the image in the file (480 640)',
    )
    parser.add_argument('--device', default='cpu', help='cpu or cuda (%(default)s)')
    parser.add_argument('--dtype', default='float32', choices=DTYPES, help='(%(default)s)')
    parser.add_argument('--threads', type=int, help='threads on a CPU (those that torch takes)')
    parser.add_argument('--rounds', type=int, default=Setting.rounds, help='(%(default)s)')
    parser.add_argument(
        '--warmups', type=int, default=Setting.warmups, help='passes before (%(default)s)'
    )
    parser.add_argument(
        '--objects',
        type=int,
        default=Setting.objects,
        help='how many objects the detectors see, at most (%(default)s)',
    )
    parser.add_argument('--train', action='store_true', help='time training iterations instead')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/benchmark_detector'))
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the configs',
    )
    args = parser.parse_args()
    setting = Setting(
        size=None if args.size is None else parse_size(args.size),
        photo=tuple(args.photo),
        device=args.device,
        dtype=args.dtype,
        threads=args.threads,
        rounds=args.rounds,
        warmups=args.warmups,
        train=args.train,
        objects=args.objects,
    )
    configs = read_all(args.configs, args.cfg_options)
    folder = make_folder(args.work_dir)  # so that a wrong path shows before all the work
    results = measure(configs, setting, lambda line: print(line, file=sys.stderr, flush=True))
    about, table = describe(setting), results_table(results)
    write_csv(results, folder / 'detectors.csv')
    draw_results(results, about, folder / 'detectors.png')
    (folder / 'detectors.md').write_text(f'{about}\n\n{table}\n', encoding='utf-8')
    print(f'{about}\n\n{table}\n\ntable, CSV and picture: {folder}')


if __name__ == '__main__':
    run_tool(main)
