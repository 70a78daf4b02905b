"""Measure what a larger image costs the backbone, for each layout of windows: table, CSV, plot."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import hiera_mm  # noqa: F401  before the toolboxes: it supplies mmcv's operators
from benchmarks.kit.ledger import Ledger
from benchmarks.study import cost
from hiera_mm.errors import run_tool


def main() -> None:
    """Parse the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog='Run again after an interruption, it goes on.'
    )
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/study_cost'))
    parser.add_argument('--fresh', action='store_true', help='forget what was measured before')
    parser.add_argument('--sides', type=int, nargs='+', default=cost.SIDES, metavar='PIXELS')
    parser.add_argument('--train', action='store_true', help='forward and backward pass')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16', 'float16'])
    parser.add_argument('--threads', type=int, default=2, help='on a CPU (default: 2)')
    parser.add_argument('--repeats', type=int, default=3, help='timed passes (default: 3)')
    args = vars(parser.parse_args())
    work_dir, fresh = args.pop('work_dir'), args.pop('fresh')
    setting = cost.Setting(**{**args, 'sides': tuple(args['sides'])})
    about = cost.describe(setting)
    ledger = Ledger(work_dir / 'costs.jsonl', {**asdict(setting), 'where': about}, fresh=fresh)

    def report(one: cost.Cost, done: int, total: int) -> None:
        print(
            f'({done}/{total}) {one.layout} at {one.side}: {one.seconds:.2f} s, '
            f'{one.memory / cost.GIB:.2f} GiB',
            flush=True,
        )

    costs = cost.measure_costs(setting, ledger, report)
    cost.write_costs(costs, work_dir / 'costs.csv')
    cost.draw_costs(costs, about, work_dir / 'costs.png')
    print(f'\n{about}\n\n{cost.cost_table(costs)}\n\npicture: {work_dir / "costs.png"}')


if __name__ == '__main__':
    run_tool(main)
