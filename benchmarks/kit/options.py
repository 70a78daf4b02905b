"""Options that several scripts have. Nothing heavy is imported here: `--help` answers at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence


def at_least(least: int) -> Callable[[str], int]:
    """Return a type for argparse: an integer that is not below `least`."""

    def integer(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f'must be at least {least}, got {value}')
        return value

    return integer


def add_machine(
    parser: argparse.ArgumentParser, dtypes: Sequence[str] = (), threads: int | None = None
) -> None:
    """Add on what to measure: `--device`, `--threads`, and `--dtype` if there is a choice."""
    parser.add_argument('--device', default='cpu', help='cpu or cuda (%(default)s)')
    told = 'those that torch takes' if threads is None else '%(default)s'
    parser.add_argument(
        '--threads', type=at_least(1), default=threads, help=f'threads on a CPU ({told})'
    )
    if dtypes:
        parser.add_argument(
            '--dtype',
            default='float32',
            choices=dtypes,
            help='others than float32 are mixed precision, autocast (%(default)s)',
        )


def add_rounds(parser: argparse.ArgumentParser, rounds: int, warmups: int | None = None) -> None:
    """Add how often to measure: `--rounds`, and `--warmups` if there is a default for it."""
    parser.add_argument(
        '--rounds',
        type=at_least(1),
        default=rounds,
        help='in each of which everyone is timed once, in random order (%(default)s)',
    )
    if warmups is not None:
        parser.add_argument(
            '--warmups', type=at_least(0), default=warmups, help='passes before (%(default)s)'
        )


def add_fresh(parser: argparse.ArgumentParser) -> None:
    """Add `--fresh` of a script that goes on where it was interrupted."""
    parser.add_argument('--fresh', action='store_true', help='forget what was done before')


def check_archs(archs: Sequence[str]) -> None:
    """Raise a UserError if a name is not that of an architecture."""
    from hiera_mm.errors import UserError, did_you_mean
    from hiera_mm.network import VARIANTS

    for arch in archs:
        if arch not in VARIANTS:
            known = ', '.join(VARIANTS)
            raise UserError(f'no arch {arch!r}{did_you_mean(arch, VARIANTS)}; there are {known}')


def say(line: str) -> None:
    """Print a line about what happens next, beside the results."""
    print(line, file=sys.stderr, flush=True)
