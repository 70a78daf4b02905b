"""Write Hiera weights of any family in another project's form."""

from __future__ import annotations

import argparse
import json


def parse_args() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', help='a path, a URL or a short name such as sam2.1://large')
    parser.add_argument(
        'out', help='file to write, .safetensors or .pth; for transformers also a folder'
    )
    parser.add_argument(
        '--to',
        required=True,
        choices=('release', 'timm', 'transformers', 'sam2', 'ours'),
        help='whose form to write',
    )
    parser.add_argument(
        '--arch',
        type=lambda text: json.loads(text) if text.startswith('{') else text,
        help='the architecture, if the weights do not tell it: a name, or its fields as JSON',
    )
    parser.add_argument('--prefix', help="what stands before the network's names, e.g. backbone.")
    parser.add_argument('--force', action='store_true', help='overwrite what is there')
    return parser.parse_args()


def convert(args: argparse.Namespace) -> None:
    """Convert, and say what was written."""
    from hiera_mm.weights import export

    done = export.convert(**vars(args))
    print(f'{len(done.tensors)} tensors written to {args.out}, in the form of {done.family.title}')
    if done.left_out:
        print(f'left out, for want of a place: {", ".join(done.left_out)}')
    for remark in done.remarks:
        print(remark)


def main() -> None:
    """Parse the command line and convert."""
    args = parse_args()

    from hiera_mm.errors import run_tool

    run_tool(lambda: convert(args))


if __name__ == '__main__':
    main()
