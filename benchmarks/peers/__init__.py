"""Other projects' Hieras, built with random weights to compare ours with.

Their packages come with the ``test`` extra, but for ``sam2``, which is optional.
"""

from benchmarks.peers.registry import PEERS, Peer, randomise

__all__ = ['PEERS', 'Peer', 'randomise']
