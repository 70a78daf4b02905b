"""Time Hiera beside the other implementations that are installed: tables, CSV, plot."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

SIZES = ([224], [512], [1024])


def main() -> None:
    """Parse the command line and run."""
    from benchmarks.kit import options

    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Weights are random, and the same for all of an architecture. Whoever computes '
        'other features than ours in float64 is not timed. Run again after an interruption, it '
        'goes on.',
    )
    parser.add_argument(
        '--arch',
        nargs='+',
        default=['tiny', 'base', 'sam2_tiny'],
        metavar='ARCH',
        help='architectures (tiny base sam2_tiny)',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs='+',
        action='append',
        metavar='PIXELS',
        help='height and width, or one side of a square; repeat for several (224, 512 and 1024)',
    )
    parser.add_argument(
        '--peers',
        nargs='*',
        metavar='NAME',
        help='whom to time beside ours, such as timm.hiera (all that are installed)',
    )
    parser.add_argument('--batch', type=options.at_least(1), default=1, help='images (%(default)s)')
    options.add_machine(parser, dtypes=('float32', 'bfloat16', 'float16'))
    options.add_rounds(parser, rounds=10, warmups=1)
    parser.add_argument(
        '--train',
        action='store_true',
        help='time a training step: forward, a loss of all features, backward, gradients cleared; '
        'without drop path, and without a step of an optimiser, which is the same for all',
    )
    parser.add_argument(
        '--compile',
        action='store_true',
        help='run everyone through torch.compile, and tell how long that takes',
    )
    parser.add_argument(
        '--channels-last', action='store_true', help='images and convolutions in channels_last'
    )
    parser.add_argument(
        '--no-memory',
        action='store_true',
        help='do not measure memory, which on a CPU takes a new process for each',
    )
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/benchmark_backbone'))
    options.add_fresh(parser)
    setting = parser.parse_args()

    from hiera_mm.errors import run_tool

    run_tool(lambda: run(setting))


def run(setting: argparse.Namespace) -> None:
    """Measure, and write tables, CSV and plot."""
    from benchmarks.contest.measuring import check, facts, measure
    from benchmarks.contest.report import cell_text, describe, draw_times, legend
    from benchmarks.kit.ledger import Ledger
    from benchmarks.kit.options import check_archs, say
    from benchmarks.kit.tables import write_csv
    from hiera_mm.trial.configs import parse_size

    given = {name: vars(setting).pop(name) for name in ('arch', 'size', 'work_dir', 'fresh')}
    sizes, folder = [parse_size(values) for values in given['size'] or SIZES], given['work_dir']
    check_archs(given['arch'])
    check(setting)
    record = {**vars(setting), **facts(setting)}
    ledger = Ledger(folder / 'backbones.jsonl', record, fresh=given['fresh'])
    cells = measure(given['arch'], sizes, setting, ledger, say)
    about = describe(setting, cells)
    text = '\n\n'.join([about, *map(cell_text, cells), legend()])
    (folder / 'backbones.md').write_text(f'{text}\n', encoding='utf-8')
    write_csv(folder / 'backbones.csv', (row for rows in cells for row in rows))
    if len(set(sizes)) > 1:
        draw_times(cells, about, folder / 'backbones.png')
    print(f'{text}\n\ntables and plot: {folder}')


if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # `benchmarks` is not installed
    main()
