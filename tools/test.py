"""Evaluate a checkpoint on the test set of an mmdet or mmseg config."""

from __future__ import annotations

import hiera_mm  # noqa: F401  before the toolboxes: it supplies mmcv's operators
from hiera_mm.engine import run_tool, test
from hiera_mm.engine.command_line import add_run_arguments, make_parser, take_local_rank


def main() -> None:
    """Parse the command line and test."""
    parser = make_parser(__doc__)
    parser.add_argument('checkpoint', help='the checkpoint to evaluate')
    add_run_arguments(parser)
    parser.add_argument(
        '--out', help='save predictions: mmdet to a .pkl file, mmseg to a folder of label maps'
    )
    parser.add_argument('--show', action='store_true', help='show drawings in a window')
    parser.add_argument(
        '--show-dir', help='save drawings; mmdet puts a relative folder below <work dir>/<time>/'
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds for which a window stays (%(default)s)'
    )
    parser.add_argument(
        '--tta', action='store_true', help='average over augmented copies of each image'
    )
    test(**take_local_rank(parser.parse_args()))


if __name__ == '__main__':
    run_tool(main)
