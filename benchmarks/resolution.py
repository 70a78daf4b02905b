"""Train a small Hiera at one size and score it at larger ones under each position embedding."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main() -> None:
    """Parse the command line and run."""
    from benchmarks.kit import options

    parser = argparse.ArgumentParser(
        description=__doc__, epilog='Run again after an interruption, it goes on.'
    )
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/study_resolution'))
    options.add_fresh(parser)
    positive = options.at_least(1)
    parser.add_argument(
        '--workers',
        type=positive,
        default=os.cpu_count(),
        help='processes of one thread (all cores)',
    )
    parser.add_argument('--scales', type=float, nargs='+', default=(1.0, 1.5, 2.0, 3.0))
    sizes = dict(seeds=3, train_steps=2000, tune_steps=100, train_scenes=2000, test_scenes=300)
    for name, default in sizes.items():
        option = f'--{name.replace("_", "-")}'
        parser.add_argument(option, type=positive, default=default, help='(%(default)s)')
    parser.add_argument(
        '--pretrain-steps',
        type=options.at_least(0),
        default=0,
        help='of a masked autoencoder on the same scenes before the training (%(default)s)',
    )
    setting = parser.parse_args()

    from hiera_mm.errors import run_tool

    run_tool(lambda: run(setting))


def run(setting: argparse.Namespace) -> None:
    """Run the study, and print its tables."""
    import torch

    from benchmarks.kit.ledger import Ledger
    from benchmarks.kit.options import say
    from benchmarks.studies import pictures
    from benchmarks.studies.resolution import Training, check, run_study

    folder, fresh, workers = (vars(setting).pop(name) for name in ('work_dir', 'fresh', 'workers'))
    check(setting)
    record = {**vars(setting), 'torch': torch.__version__}
    ledger = Ledger(folder / 'scores.jsonl', record, fresh=fresh)
    results = run_study(setting, folder, ledger, workers, say)
    pictures.draw_results(results, setting, folder / 'scores.png')
    state = torch.load(Training(pictures.TRAINED_WITH, 0).file(folder), weights_only=True)
    pictures.draw_embeddings(state, folder / 'embeddings.png')
    pictures.draw_features(state, folder / 'features.png')
    print(f'\nAs trained:\n\n{pictures.results_table(results, setting, tuned=False)}')
    tuned = pictures.results_table(results, setting, tuned=True)
    print(f'\nAfter a short training:\n\n{tuned}\n')
    for file in sorted(folder.glob('*.png')):
        print(f'picture: {file}')


if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # `benchmarks` is not installed
    main()
