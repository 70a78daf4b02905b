"""Time mmcv's operators as served here, beside those of a compiled mmcv where one is installed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import hiera_mm  # noqa: F401  it supplies mmcv's operators
from benchmarks.operators.measuring import (
    Setting,
    all_cases,
    chosen,
    compiled_functions,
    measure,
)
from benchmarks.operators.report import describe, results_table, write_csv
from hiera_mm.engine.launch import make_folder
from hiera_mm.errors import run_tool


def main() -> int:
    """Parse the command line, measure, and write table and CSV; 1 if answers differ."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Answers are compared first. Where they differ, nothing is timed, and the exit '
        'code is 1.',
    )
    parser.add_argument('--device', default='cpu', help='cpu or cuda (%(default)s)')
    parser.add_argument('--threads', type=int, help='threads on a CPU (those that torch takes)')
    parser.add_argument('--rounds', type=int, default=Setting.rounds, help='(%(default)s)')
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
    setting = Setting(args.device, args.threads, args.rounds)
    cases = all_cases(quick=args.quick)
    if args.only is not None:
        cases = chosen(cases, args.only)
    compiled = compiled_functions()
    folder = make_folder(args.work_dir)  # so that a wrong path shows before all the work
    about = describe(setting, compiled)
    print(about, flush=True)
    results = measure(
        cases, setting, compiled, lambda line: print(line, file=sys.stderr, flush=True)
    )
    table = results_table(results)
    write_csv(results, folder / 'operators.csv')
    (folder / 'operators.md').write_text(f'{about}\n\n{table}\n', encoding='utf-8')
    print(f'\n{table}\n\ntable and CSV: {folder}')
    return int(any(result.differ for result in results))


if __name__ == '__main__':
    run_tool(main)
