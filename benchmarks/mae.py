"""Pretrain a small Hiera without labels, then train with few: from it, and from nothing."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    """Parse the command line and run."""
    from benchmarks.kit import options

    parser = argparse.ArgumentParser(
        description=__doc__, epilog='Run again after an interruption, it goes on.'
    )
    parser.add_argument(
        'data', nargs='*', default=['shapes'], metavar='DATA', help='shapes, bccd (shapes)'
    )
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/study_mae'))
    options.add_fresh(parser)
    parser.add_argument(
        '--bccd', type=Path, default=Path('data/bccd'), help='folder of that data (%(default)s)'
    )
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument(
        '--rates',
        type=float,
        nargs='+',
        default=[1.0],
        help="the backbone's learning rate, as multiples of the demo's (1)",
    )
    sizes = dict(unlabelled=3000, labelled=50, validation=200, pretrain_iters=4500, train_iters=300)
    for name, default in sizes.items():
        option = f'--{name.replace("_", "-")}'
        parser.add_argument(option, type=options.at_least(2), default=default, help='(%(default)s)')
    setting = parser.parse_args()

    from hiera_mm.errors import run_tool

    run_tool(lambda: run(setting))


def run(setting: argparse.Namespace) -> None:
    """Run the study, print its table and draw its picture."""
    import torch

    from benchmarks.kit.ledger import Ledger
    from benchmarks.kit.options import say
    from benchmarks.kit.tables import write_csv
    from benchmarks.studies import mae

    folder, fresh = setting.work_dir, setting.fresh
    mae.check(setting)
    # What can be added to a study that was begun is no part of what its results depend on.
    added = ('work_dir', 'fresh', 'data', 'bccd', 'seeds', 'rates')
    record = {name: value for name, value in vars(setting).items() if name not in added}
    record['torch'] = torch.__version__
    ledger = Ledger(folder / 'scores.jsonl', record, fresh=fresh)
    scores = mae.run_study(setting, ledger, say)
    write_csv(folder / 'scores.csv', ({**job._asdict(), 'score': s} for job, s in scores.items()))
    mae.draw_scores(scores, folder / 'scores.png')
    print(f'\n{mae.scores_table(scores)}\n')
    print(f'table: {folder / "scores.csv"}\npicture: {folder / "scores.png"}')


if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # `benchmarks` is not installed
    main()
