"""Measure what a larger image costs the backbone, for each layout of windows: table, CSV, plot."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

SIDES = (512, 768, 1024, 1280, 1536, 1792, 2048)


def main() -> None:
    """Parse the command line and run."""
    from benchmarks.kit import options

    parser = argparse.ArgumentParser(
        description=__doc__, epilog='Run again after an interruption, it goes on.'
    )
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/study_cost'))
    options.add_fresh(parser)
    parser.add_argument('--sides', type=int, nargs='+', default=SIDES, metavar='PIXELS')
    parser.add_argument('--train', action='store_true', help='forward and backward pass')
    options.add_machine(parser, threads=2)
    parser.add_argument(
        '--dtype',
        default='float32',
        choices=['float32', 'bfloat16', 'float16'],
        help='of weights and images (%(default)s)',
    )
    parser.add_argument(
        '--repeats', type=options.at_least(1), default=3, help='timed passes (%(default)s)'
    )
    setting = parser.parse_args()

    from hiera_mm.errors import run_tool

    run_tool(lambda: run(setting))


def run(setting: argparse.Namespace) -> None:
    """Measure, and print the table."""
    from benchmarks.kit.ledger import Ledger
    from benchmarks.kit.options import say
    from benchmarks.kit.tables import write_csv
    from benchmarks.studies import image_cost

    folder, fresh = (vars(setting).pop(name) for name in ('work_dir', 'fresh'))
    image_cost.check(setting)
    about = image_cost.describe(setting)
    ledger = Ledger(folder / 'costs.jsonl', {**vars(setting), 'where': about}, fresh=fresh)
    rows = image_cost.measure_costs(setting, ledger, say)
    write_csv(folder / 'costs.csv', rows)
    image_cost.draw_costs(rows, about, folder / 'costs.png')
    print(f'\n{about}\n\n{image_cost.cost_table(rows)}\n\npicture: {folder / "costs.png"}')


if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # `benchmarks` is not installed
    main()
