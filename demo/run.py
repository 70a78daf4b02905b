"""Train, test and draw a small detector and a small segmenter with Hiera inside."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from hiera_mm.errors import run_tool


def main() -> int:
    """Parse the command line and run the demo; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Run again after an interruption, it goes on. Exit status: 1 if a score misses its '
        'bar, 2 if a step fails.',
    )
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--fresh', action='store_true', help='forget what was trained before')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='change both configs'
    )
    args = parser.parse_args()

    from rich.console import Console

    from demo.driver import run_demo

    console = Console(highlight=False)
    # Leave in good order: the step that is running is ended on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        met = run_demo(args.work_dir, console, fresh=args.fresh, options=args.cfg_options)
    except KeyboardInterrupt:
        console.print('Interrupted. The same command goes on from the last checkpoint.')
        return 130
    return 0 if met else 1


if __name__ == '__main__':
    # Python put demo/ itself here; `demo` is imported from the repository root.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    run_tool(main)
