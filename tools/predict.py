"""Draw what a trained detector or segmenter sees in your own images."""

from __future__ import annotations

import sys

import hiera_mm  # noqa: F401  before the toolboxes: it supplies mmcv's operators
from hiera_mm.engine import predict, run_tool
from hiera_mm.engine.command_line import make_parser


def main() -> int:
    """Parse the command line, draw, and report; 1 if an image could not be read."""
    parser = make_parser(__doc__)
    parser.add_argument('checkpoint', help='the trained weights')
    parser.add_argument('source', help='an image, or a folder of images')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for the drawings')
    parser.add_argument('--device', help='e.g. cpu or cuda:0 (a GPU if there is one)')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='leave out detections with a lower score (%(default)s)',
    )
    args = parser.parse_args()
    found = predict(**vars(args))
    print(f'\n{len(found.drawings)} drawings in {args.out}')
    for path in found.unreadable:
        print(f'Could not be read: {path}', file=sys.stderr)
    return 1 if found.unreadable else 0


if __name__ == '__main__':
    run_tool(main)
