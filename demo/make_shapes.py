"""Make the generated `shapes` data set."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    """Parse the command line and make the set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--root', default='data/shapes', help='folder to make (%(default)s)')
    parser.add_argument('--num-train', type=int, default=1000, help='images (%(default)s)')
    parser.add_argument('--num-val', type=int, default=200, help='images (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='0 or more (%(default)s)')
    parser.add_argument('--force', action='store_true', help='replace another shapes set')
    args = parser.parse_args()

    from demo.shapes import make_shapes

    try:
        paths = make_shapes(
            args.root,
            num_train=args.num_train,
            num_val=args.num_val,
            seed=args.seed,
            overwrite=args.force,
            progress=True,
        )
    except (OSError, ValueError) as error:
        sys.exit(f'make_shapes: {error}')
    print(f'shapes: {paths.root}')


if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # `demo` is not installed
    main()
