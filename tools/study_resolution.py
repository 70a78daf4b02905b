"""Train a small Hiera at one size and score it at larger ones under each position embedding."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

import hiera_mm  # noqa: F401  before the toolboxes: it supplies mmcv's operators
from benchmarks.kit.ledger import Ledger
from benchmarks.study.pictures import TRAINED_WITH, draw_embeddings, draw_features
from benchmarks.study.report import draw_results, results_table
from benchmarks.study.resolution import Setting, Training, run_study, setting_record
from hiera_mm.errors import run_tool


def main() -> None:
    """Parse the command line, run the study, and print its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog='Run again after an interruption, it goes on.'
    )
    default = Setting()
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/study_resolution'))
    parser.add_argument('--fresh', action='store_true', help='forget what was done before')
    parser.add_argument(
        '--workers', type=int, default=os.cpu_count(), help='processes of one thread (all cores)'
    )
    parser.add_argument('--seeds', type=int, default=default.seeds)
    parser.add_argument('--scales', type=float, nargs='+', default=default.scales)
    parser.add_argument('--train-steps', type=int, default=default.train_steps)
    parser.add_argument('--tune-steps', type=int, default=default.tune_steps)
    parser.add_argument('--train-scenes', type=int, default=default.train_scenes)
    parser.add_argument('--test-scenes', type=int, default=default.test_scenes)
    args = vars(parser.parse_args())
    work_dir, fresh, workers = (args.pop(name) for name in ('work_dir', 'fresh', 'workers'))
    if workers < 1:
        parser.error('--workers must be at least 1')
    setting = Setting(**{**args, 'scales': tuple(args['scales'])})
    ledger = Ledger(work_dir / 'scores.jsonl', setting_record(setting), fresh=fresh)

    def report(text: str, done: int, total: int) -> None:
        print(f'({done}/{total}) {text}', flush=True)

    results = run_study(setting, work_dir, ledger, workers, report)
    draw_results(results, setting, work_dir / 'scores.png')
    state = torch.load(Training(TRAINED_WITH, 0).file(work_dir), weights_only=True)
    draw_embeddings(state, work_dir / 'embeddings.png')
    draw_features(state, work_dir / 'features.png')
    print(f'\nAs trained:\n\n{results_table(results, setting, tuned=False)}')
    print(f'\nAfter a short training:\n\n{results_table(results, setting, tuned=True)}\n')
    for file in sorted(work_dir.glob('*.png')):
        print(f'picture: {file}')


if __name__ == '__main__':
    run_tool(main)
