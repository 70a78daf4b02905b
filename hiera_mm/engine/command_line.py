"""The part of the command line that all tools share."""

from __future__ import annotations

import argparse
import os

from mmengine.config import DictAction


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the arguments that every tool takes: a config, and changes to it.

    Args:
        description: What the tool does.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file of mmdet, mmseg or another OpenMMLab toolbox')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. train_cfg.max_epochs=12; lists as key="[a,b]" '
        'or key=a,b without blanks',
    )
    return parser


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what training and testing share: the work dir, and how processes are started.

    Args:
        parser: A tool's parser.
    """
    parser.add_argument(
        '--work-dir', help='folder for logs and checkpoints (./work_dirs/<config name>)'
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how several processes are started; see tools/dist_train.sh (%(default)s)',
    )
    parser.add_argument(  # older launchers pass it; torchrun sets LOCAL_RANK instead
        '--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS
    )


def take_local_rank(args: argparse.Namespace) -> dict[str, object]:
    """Put ``--local-rank`` where mmengine looks for it.

    Args:
        args: Parsed arguments of a parser that `add_run_arguments` completed.

    Returns:
        The other arguments, by name.
    """
    rest = vars(args).copy()
    os.environ.setdefault('LOCAL_RANK', str(rest.pop('local_rank')))
    return rest
