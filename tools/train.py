"""Train the model of an mmdet or mmseg config."""

from __future__ import annotations

import argparse
import os
from typing import Any


def make_parser(description: str | None, config: str) -> argparse.ArgumentParser:
    """Return what reads the command line of a training; `config` says what config it takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help=config)
    parser.add_argument(
        '--work-dir', help='folder for logs and checkpoints (./work_dirs/<config name>)'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. train_cfg.max_epochs=12; lists as key="[a,b]" '
        'or key=a,b without blanks',
    )
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
        '--track',
        nargs='+',
        choices=['tensorboard', 'wandb', 'mlflow'],
        default=[],
        help='experiment trackers to write to',
    )
    parser.add_argument(
        '--skip-checks',
        action='store_true',
        help='leave out the checks of the data and of the first validation',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from a checkpoint; without a value, from the latest one in the work dir',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how several processes are started; see tools/dist_train.sh (%(default)s)',
    )
    # Older launchers pass it; torchrun sets LOCAL_RANK instead.
    parser.add_argument('--local_rank', '--local-rank', default='0', help=argparse.SUPPRESS)
    return parser


def parse(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Return the arguments that the library takes."""
    args = vars(parser.parse_args())
    os.environ.setdefault('LOCAL_RANK', args.pop('local_rank'))
    return args


def main() -> None:
    """Parse the command line and train."""
    config = 'config file of mmdet, mmseg or another OpenMMLab toolbox'
    args = parse(make_parser(__doc__, config))

    import hiera_mm  # noqa: F401  before the toolboxes: it supplies mmcv's operators
    from hiera_mm.engine import run_tool, train

    run_tool(lambda: train(**args))


if __name__ == '__main__':
    main()
