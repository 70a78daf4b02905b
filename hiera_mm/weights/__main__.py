"""``python -m hiera_mm.weights``: list known weights, or say what a file holds."""

from __future__ import annotations

import argparse
import sys
from functools import cache

import torch

import hiera_mm  # noqa: F401  before the toolboxes: it supplies mmcv's operators

from ..errors import run_tool
from ..network import HieraTrunk
from ..network.position import kind_of
from . import architecture
from .catalog import CATALOG
from .loading import read, window_share
from .sources import cache_folder


def list_known(word: str) -> None:
    """Print the known weights whose name, architecture or licence has ``word`` in it."""
    head = ('name', 'arch', 'parameters', 'image', 'trained on', 'licence')
    rows = []
    for entry in CATALOG.values():
        made = entry.training
        if word in f'{entry.name} {entry.arch} {made.licence}':
            size = f'{_parameters(entry.arch) / 1e6:.1f} M'
            row = (entry.name, entry.arch, size, made.image_size, made.trained_on, made.licence)
            rows.append([str(cell) for cell in row])
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        line = '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())
    print(f'\n{len(rows)} of {len(CATALOG)} known; downloads are kept in {cache_folder()}')


@cache
def _parameters(arch: str) -> int:
    """Count the parameters of an architecture, without the norms of its outputs."""
    with torch.device('meta'):
        trunk = HieraTrunk(arch, out_norm_eps=None)
    return sum(parameter.numel() for parameter in trunk.parameters())


def inspect(source: str, prefix: str | None) -> None:
    """Print what Hiera a file holds."""
    weights = read(source, prefix)
    names = architecture.variants_of(weights, source)
    position = architecture.position_of(weights, source)
    print(f'{source}')
    print(f'  names         those of {weights.family.title}')
    if weights.prefix:
        print(f'  prefix        {weights.prefix}')
    print(f'  architecture  {" or ".join(names) or architecture.describe(weights)}')
    print(f'  position      {position}')
    if kind_of(position) != 'absolute':  # a map that is not of whole mask units
        learnt = {name: weights.tensors[name].float() for name in position.shapes(1)}
        print(f'  window part   {window_share(learnt, position):.0%} of its variance')
    print(f'  parameters    {sum(t.numel() for t in weights.tensors.values()):,}')
    for reason, dropped in weights.dropped.items():
        print(f'  besides       {len(dropped)} tensors: {reason}')


def main() -> None:
    """Parse the command line and run the command."""
    parser = argparse.ArgumentParser(prog='python -m hiera_mm.weights', description=__doc__)
    commands = parser.add_subparsers(dest='command')
    known = commands.add_parser('list', help='list known weights (also without any command)')
    known.add_argument('word', nargs='?', default='', help='part of a name, architecture, licence')
    look = commands.add_parser('inspect', help='say what a file holds')
    look.add_argument('source', help='a path, a URL or a short name')
    look.add_argument('--prefix', help="what stands before the network's names")
    args = parser.parse_args(sys.argv[1:] or ['list'])
    if args.command == 'list':
        list_known(args.word)
    else:
        inspect(args.source, args.prefix)


if __name__ == '__main__':
    run_tool(main)
