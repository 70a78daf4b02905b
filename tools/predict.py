"""Draw what a trained detector or segmenter sees in your own images."""

from __future__ import annotations

import argparse


def parse_args() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of mmdet or mmseg')
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
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        help='override settings of the config; lists as key="[a,b]" or key=a,b without blanks',
    )
    return parser.parse_args()


def main() -> None:
    """Parse the command line and draw; the exit code is 1 if an image could not be drawn."""
    args = vars(parse_args())

    import hiera_mm  # noqa: F401  before the toolboxes: it supplies mmcv's operators
    from hiera_mm.engine import predict, run_tool

    run_tool(lambda: predict(**args).report(args['out']))


if __name__ == '__main__':
    main()
