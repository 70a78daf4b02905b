"""Pretrain a Hiera on images without labels, as a masked autoencoder."""

from __future__ import annotations

from train import make_parser, parse


def main() -> None:
    """Parse the command line and pretrain."""
    parser = make_parser(__doc__, 'config file with a HieraMAE, such as those of configs/pretrain')
    parser.add_argument(
        '--images',
        metavar='DIR',
        help="folder of images, which may have folders in it, instead of the config's",
    )
    args = parse(parser)

    import hiera_mm  # noqa: F401  before the toolboxes: it supplies mmcv's operators
    from hiera_mm.engine import run_tool
    from hiera_mm.pretrain import pretrain

    run_tool(lambda: pretrain(**args))


if __name__ == '__main__':
    main()
