"""Same weights in, same features out? Measured in float64, through a file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.peers.registry import BIG, PEERS, Peer
from hiera_mm import weights
from hiera_mm.backbone import Hiera
from hiera_mm.cost import report

LIMIT = 1e-9


@dataclass(frozen=True)
class Comparison:
    """How far ours is from a peer.

    Attributes:
        peer: The peer's name.
        arch: The architecture.
        size: Height and width of the image.
        differences: Largest absolute difference of each stage's features.
        magnitude: Standard deviation of the peer's features of the last stage.
    """

    peer: str
    arch: str
    size: tuple[int, int]
    differences: tuple[float, ...]
    magnitude: float


def compare(
    peer: Peer, arch: str, sizes: Iterable[tuple[int, int]] | None = None
) -> Iterator[Comparison]:
    """Give a peer random weights, save them as it does, load the file here, and compare features.

    There is one comparison for each image size; by default they are the peer's own.
    """
    torch.manual_seed(0)
    model = peer.make(arch)
    batches = [torch.randn(1, 3, *size, dtype=torch.float64) for size in sizes or peer.sizes]
    with torch.no_grad():
        expected = [peer.features(model, images) for images in batches]
    out_norm = None if peer.out_norm_eps is None else dict(type='LN', eps=peer.out_norm_eps)
    with tempfile.TemporaryDirectory() as folder:
        file = peer.save(model, Path(folder))
        del model  # the largest take 5 GB, and there is no need to hold two at once
        ours = Hiera(arch, out_norm=out_norm).double().eval()
        ours.load_state_dict(weights.plan(ours, file).tensors, strict=False)
    for images, theirs in zip(batches, expected, strict=True):
        with torch.no_grad():
            found = differences(ours(images), theirs)
        magnitude = theirs[-1].std().item()
        yield Comparison(peer.name, arch, tuple(images.shape[2:]), found, magnitude)


def differences(features: Sequence[Tensor], others: Sequence[Tensor]) -> tuple[float, ...]:
    """Return the largest absolute difference of each stage's features."""
    return tuple((a - b).abs().max().item() for a, b in zip(features, others, strict=True))


def agree(found: Iterable[float]) -> bool:
    """Tell whether all differences are within :data:`LIMIT`."""
    # Each one: the largest of several numbers need not be NaN where one of them is.
    return all(one <= LIMIT for one in found)


def table(archs: Iterable[str] | None, progress: Callable[[str], None]) -> tuple[str, bool]:
    """Compare with all installed peers, by default every architecture but the big ones.

    Returns:
        A Markdown table, and whether every difference is within :data:`LIMIT`.
    """
    rows, within = [], True
    for peer in PEERS.values():
        if not peer.installed:
            progress(f'{peer.name}: {peer.package} is not installed')
            continue
        for arch in peer.archs:
            if arch not in archs if archs else arch in BIG:
                continue
            sizes, largest = [], 0.0
            for done in compare(peer, arch):
                sizes.append(f'{done.size[0]}x{done.size[1]}')
                largest = max(largest, *done.differences)
                within = within and agree(done.differences)
            rows.append((f'`{peer.name}`', arch, ', '.join(sizes), f'{largest:.1e}'))
            progress(' '.join(rows[-1]))
    head = ('model', 'arch', 'images', 'largest difference')
    return report.table(head, rows, texts=3), within
