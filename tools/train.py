"""Train the model of an mmdet or mmseg config."""

from __future__ import annotations

import hiera_mm  # noqa: F401  before the toolboxes: it supplies mmcv's operators
from hiera_mm.engine import run_tool, train
from hiera_mm.engine.command_line import add_run_arguments, make_parser, take_local_rank
from hiera_mm.engine.options import TRACKERS


def main() -> None:
    """Parse the command line and train."""
    parser = make_parser(__doc__)
    add_run_arguments(parser)
    parser.add_argument('--amp', action='store_true', help='train in mixed precision (GPU)')
    parser.add_argument(
        '--amp-dtype',
        choices=['float16', 'bfloat16'],
        default='float16',
        help='the lower precision of --amp (%(default)s)',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the total batch size',
    )
    parser.add_argument('--compile', action='store_true', help='compile the blocks of the backbone')
    parser.add_argument(
        '--ema', action='store_true', help='test and save a moving average of the weights'
    )
    parser.add_argument(
        '--fsdp', action='store_true', help='shard model and optimiser over the processes'
    )
    parser.add_argument(
        '--track', nargs='+', choices=TRACKERS, default=[], help='experiment trackers to write to'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from a checkpoint; without a value, from the latest one in the work dir',
    )
    train(**take_local_rank(parser.parse_args()))


if __name__ == '__main__':
    run_tool(main)
