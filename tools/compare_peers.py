"""Compare features with every other Hiera that is installed: same weights, float64."""

from __future__ import annotations

import argparse

import hiera_mm  # noqa: F401  before the toolboxes: it supplies mmcv's operators
from benchmarks.peers.compare import table
from hiera_mm.errors import run_tool
from hiera_mm.network import VARIANTS


def main() -> int:
    """Parse the command line, compare, and print a Markdown table; 1 if any pair differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--arch',
        nargs='+',
        choices=list(VARIANTS),
        help='architectures to compare (all but large, huge and sam2_large, which take long)',
    )
    args = parser.parse_args()
    text, within = table(args.arch, lambda line: print(line, flush=True))
    print(f'\n{text}')
    return 0 if within else 1


if __name__ == '__main__':
    run_tool(main)
