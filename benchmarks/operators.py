"""Time mmcv's operators as served here, beside those of a compiled mmcv where one is installed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    """Parse the command line and run."""
    from benchmarks.kit import options

    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Answers are compared first. Where they differ, nothing is timed, and the exit '
        'code is 1.',
    )
    options.add_machine(parser)
    options.add_rounds(parser, rounds=5)
    parser.add_argument(
        '--only',
        nargs='+',
        metavar='NAME',
        help='operators, or families of them such as roi_align (all)',
    )
    parser.add_argument(
        '--quick', action='store_true', help='small inputs, to try whether everything works'
    )
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/benchmark_operators'))
    args = parser.parse_args()

    from hiera_mm.errors import run_tool

    run_tool(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Measure, and write table and CSV; 1 if answers differ."""
    from benchmarks.kit.options import say
    from benchmarks.kit.tables import write_csv
    from benchmarks.mmcv_ops import measuring
    from hiera_mm.engine.launch import check_device, make_folder

    check_device(args.device)
    cases = measuring.all_cases(quick=args.quick)
    if args.only is not None:
        cases = measuring.chosen(cases, args.only)
    compiled = measuring.compiled_functions()
    folder = make_folder(args.work_dir)  # so that a wrong path shows before all the work
    about = measuring.describe(args, compiled)
    print(about, flush=True)
    rows = list(measuring.measure(cases, args, compiled, say))
    table = measuring.results_table(rows)
    write_csv(folder / 'operators.csv', rows)
    (folder / 'operators.md').write_text(f'{about}\n\n{table}\n', encoding='utf-8')
    print(f'\n{table}\n\ntable and CSV: {folder}')
    return int(any('differ' in row for row in rows))


if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # `benchmarks` is not installed
    main()
