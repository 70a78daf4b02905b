"""Evaluate a checkpoint on the test set of an mmdet or mmseg config."""

from __future__ import annotations

import argparse
import os


def parse_args() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of mmdet, mmseg or another OpenMMLab toolbox')
    parser.add_argument('checkpoint', help='the checkpoint to evaluate')
    parser.add_argument('--work-dir', help='folder for the log (./work_dirs/<config name>)')
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
        '--skip-checks', action='store_true', help='leave out the checks of the data'
    )
    parser.add_argument(
        '--tta', action='store_true', help='average over augmented copies of each image'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. test_dataloader.batch_size=4; lists as '
        'key="[a,b]" or key=a,b without blanks',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how several processes are started; see tools/dist_test.sh (%(default)s)',
    )
    # Older launchers pass it; torchrun sets LOCAL_RANK instead.
    parser.add_argument('--local_rank', '--local-rank', default='0', help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Parse the command line and test."""
    args = vars(parse_args())
    os.environ.setdefault('LOCAL_RANK', args.pop('local_rank'))

    import hiera_mm  # noqa: F401  before the toolboxes: it supplies mmcv's operators
    from hiera_mm.engine import run_tool, test

    run_tool(lambda: test(**args))


if __name__ == '__main__':
    main()
