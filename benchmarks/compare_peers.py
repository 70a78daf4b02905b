"""Compare features with every other Hiera that is installed: same weights, float64."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--arch',
        nargs='+',
        help='architectures to compare (all but large, huge and sam2_large, which take long)',
    )
    args = parser.parse_args()

    from hiera_mm.errors import run_tool

    run_tool(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Compare, and print a Markdown table; 1 if any pair differs."""
    from benchmarks.kit.options import check_archs
    from benchmarks.peers.compare import table

    check_archs(args.arch or ())
    text, within = table(args.arch, lambda line: print(line, flush=True))
    print(f'\n{text}')
    return 0 if within else 1


if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # `benchmarks` is not installed
    main()
