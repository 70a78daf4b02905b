"""Find out which of many configs can take Hiera: those that mmdet and mmseg ship, or a folder."""

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
    parser.add_argument('folder', nargs='?', type=Path, help='a folder of configs (all shipped)')
    parser.add_argument('--arch', default='base', help='the Hiera (%(default)s)')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/swap_survey'))
    parser.add_argument(
        '--workers',
        type=options.at_least(1),
        default=os.cpu_count(),
        help='processes of one thread (all cores)',
    )
    options.add_fresh(parser)
    args = parser.parse_args()

    from hiera_mm.errors import run_tool

    run_tool(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Try all configs, and print the tables."""
    from benchmarks.kit.options import check_archs
    from benchmarks.studies.survey import run_survey

    check_archs([args.arch])
    print(run_survey(args.folder, args.arch, args.work_dir, args.workers, fresh=args.fresh))


if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # `benchmarks` is not installed
    main()
