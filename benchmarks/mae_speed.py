"""Time the masked autoencoder: what masking saves, and a step beside the release's."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    """Parse the command line and run."""
    from benchmarks.kit import options

    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='A step is forward and backward; that of an optimiser is the same for all.',
    )
    parser.add_argument('--arch', default='tiny', help="of the release's sizes (%(default)s)")
    parser.add_argument('--batch', type=options.at_least(1), default=8, help='images (%(default)s)')
    options.add_machine(parser, dtypes=('float32', 'bfloat16'))
    options.add_rounds(parser, rounds=10, warmups=1)
    parser.add_argument('--compile', action='store_true', help='run all through torch.compile')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/benchmark_mae_speed'))
    setting = parser.parse_args()

    from hiera_mm.errors import run_tool

    run_tool(lambda: run(setting))


def run(setting: argparse.Namespace) -> None:
    """Measure, and write table, CSV and bars."""
    from benchmarks.kit.tables import write_csv
    from benchmarks.studies import mae_speed

    folder = setting.work_dir
    folder.mkdir(parents=True, exist_ok=True)
    rows, about = mae_speed.measure(setting)
    write_csv(folder / 'mae_speed.csv', rows)
    mae_speed.draw(rows, about, folder / 'mae_speed.png')
    print(f'{about}\n\n{mae_speed.as_table(rows)}\n\npicture: {folder / "mae_speed.png"}')


if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # `benchmarks` is not installed
    main()
