"""Measure what models cost: parameters, multiply-adds, activation memory, images a second."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parse_args() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Models are built with random weights; no data set and no checkpoint is read.',
    )
    parser.add_argument(
        'configs',
        nargs='+',
        metavar='config',
        help='config files of mmdet or mmseg, or names of such that these ship',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs='+',
        action='append',
        default=[],
        metavar='PIXELS',
        help='height and width, or one side of a square; repeat for several (those of the test)',
    )
    parser.add_argument('--device', default='cpu', help='cpu or cuda (%(default)s)')
    parser.add_argument(
        '--dtype', default='float32', choices=['float32', 'bfloat16'], help='(%(default)s)'
    )
    parser.add_argument('--no-time', action='store_true', help='do not time predictions')
    parser.add_argument(
        '--no-activations', action='store_true', help='do not run a training forward pass'
    )
    parser.add_argument('--train', action='store_true', help='time training iterations as well')
    parser.add_argument('--repeats', type=int, default=5, help='timed passes (%(default)s)')
    parser.add_argument(
        '--markdown', action='store_true', help='print one row for each config, in Markdown'
    )
    parser.add_argument('--csv', type=Path, metavar='FILE', help='write all parts to a file')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        help='override settings of the configs',
    )
    return parser.parse_args()


def measure_all(args: argparse.Namespace) -> None:
    """Measure each config at each size, and print tables."""
    import hiera_mm  # noqa: F401  before the toolboxes: it supplies mmcv's operators
    from hiera_mm.cost.measure import Setting, measure
    from hiera_mm.cost.report import describe, parts_table, summary, write_csv
    from hiera_mm.engine.launch import make_folder
    from hiera_mm.trial.configs import parse_size, read

    sizes = [parse_size(values) for values in args.size]
    setting = Setting(
        device=args.device,
        dtype=args.dtype,
        activations=not args.no_activations,
        timed=not args.no_time,
        train=args.train,
        repeats=args.repeats,
    )
    if args.csv is not None:
        make_folder(args.csv.parent)  # so that a wrong path shows before all the work
    costs = []
    for config in args.configs:
        cfg = read(config, args.cfg_options)
        costs += measure(cfg, sizes, setting, lambda line: print(line, file=sys.stderr, flush=True))
    print(describe(setting), end='\n\n')
    if args.markdown or len(args.configs) > 1:
        print(summary(costs, markdown=args.markdown))
    else:
        print('\n\n'.join(map(parts_table, costs)))
    if args.csv is not None:
        write_csv(costs, args.csv)


def main() -> None:
    """Parse the command line and measure."""
    args = parse_args()

    from hiera_mm.errors import run_tool

    run_tool(lambda: measure_all(args))


if __name__ == '__main__':
    main()
