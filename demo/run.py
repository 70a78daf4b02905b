"""Train, test and draw a small detector and a small segmenter with Hiera inside."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path


def main() -> None:
    """Parse the command line and run the demo."""
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
    from hiera_mm.errors import run_tool

    console = Console(highlight=False)

    def run() -> int:
        try:
            met = run_demo(args.work_dir, console, fresh=args.fresh, options=args.cfg_options)
        except KeyboardInterrupt:
            console.print('Interrupted. The same command goes on from the last checkpoint.')
            return 130
        return 0 if met else 1

    # Leave in good order: the step that is running is ended on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_tool(run)


if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # `demo` is not installed
    main()
