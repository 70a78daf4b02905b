"""Time Hiera beside the other implementations that are installed: tables, CSV, plot."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import torch

import hiera_mm  # noqa: F401  before the toolboxes: it supplies mmcv's operators
from benchmarks.backbones.contestants import CONTESTANTS, OURS
from benchmarks.backbones.measuring import measure
from benchmarks.backbones.plot import draw_times
from benchmarks.backbones.report import cell_text, describe, facts, legend, write_csv
from benchmarks.backbones.setting import DTYPES, Setting
from benchmarks.kit.ledger import Ledger
from hiera_mm.cost.sizes import parse_size
from hiera_mm.errors import run_tool
from hiera_mm.network import VARIANTS

SIZES = ([224], [512], [1024])


def main() -> None:
    """Parse the command line, measure, and write tables, CSV and plot."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Weights are random, and the same for all of an architecture. Whoever computes '
        'other features than ours in float64 is not timed. Run again after an interruption, it '
        'goes on.',
    )
    parser.add_argument(
        '--arch',
        nargs='+',
        default=['tiny', 'base', 'sam2_tiny'],
        choices=list(VARIANTS),
        metavar='ARCH',
        help='architectures (tiny base sam2_tiny)',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs='+',
        action='append',
        metavar='PIXELS',
        help='height and width, or one side of a square; repeat for several (224, 512 and 1024)',
    )
    parser.add_argument(
        '--peers',
        nargs='*',
        metavar='NAME',
        help='whom to time beside ours (all that are installed): '
        + ', '.join(name for name in CONTESTANTS if name != OURS),
    )
    parser.add_argument('--batch', type=int, default=Setting.batch, help='images (%(default)s)')
    parser.add_argument('--device', default=Setting.device, help='cpu or cuda (%(default)s)')
    parser.add_argument(
        '--dtype',
        default=Setting.dtype,
        choices=DTYPES,
        help='others than float32 are mixed precision, autocast (%(default)s)',
    )
    parser.add_argument(
        '--threads', type=int, default=torch.get_num_threads(), help='on a CPU (%(default)s)'
    )
    parser.add_argument(
        '--rounds',
        type=int,
        default=Setting.rounds,
        help='in each of which everyone is timed once, in random order (%(default)s)',
    )
    parser.add_argument(
        '--warmups', type=int, default=Setting.warmups, help='passes before (%(default)s)'
    )
    parser.add_argument(
        '--train',
        action='store_true',
        help='time a training step: forward, a loss of all features, backward, gradients cleared; '
        'without drop path, and without a step of an optimiser, which is the same for all',
    )
    parser.add_argument(
        '--compile',
        dest='compiled',
        action='store_true',
        help='run everyone through torch.compile, and tell how long that takes',
    )
    parser.add_argument(
        '--channels-last', action='store_true', help='images and convolutions in channels_last'
    )
    parser.add_argument(
        '--no-memory',
        dest='memory',
        action='store_false',
        help='do not measure memory, which on a CPU takes a new process for each',
    )
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/benchmark_backbone'))
    parser.add_argument('--fresh', action='store_true', help='forget what was measured before')
    args = vars(parser.parse_args())
    sizes = [parse_size(values) for values in args.pop('size') or SIZES]
    archs, folder, fresh = args.pop('arch'), args.pop('work_dir'), args.pop('fresh')
    peers = args.pop('peers')
    setting = Setting(**args) if peers is None else Setting(**args, peers=tuple(peers))
    ledger = Ledger(folder / 'backbones.jsonl', {**asdict(setting), **facts(setting)}, fresh=fresh)
    cells = measure(
        archs, sizes, setting, ledger, lambda line: print(line, file=sys.stderr, flush=True)
    )
    about = describe(setting, cells)
    text = '\n\n'.join([about, *map(cell_text, cells), legend(setting)])
    (folder / 'backbones.md').write_text(f'{text}\n', encoding='utf-8')
    write_csv(cells, folder / 'backbones.csv')
    files = 'table and CSV'
    if len(set(sizes)) > 1:
        draw_times(cells, about, folder / 'backbones.png')
        files = 'table, CSV and plot'
    print(f'{text}\n\n{files}: {folder}')


if __name__ == '__main__':
    run_tool(main)
