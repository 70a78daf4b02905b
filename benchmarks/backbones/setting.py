"""How backbones are timed, checked before any work begins."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import torch

from benchmarks.backbones.contestants import CONTESTANTS, OURS, installed
from benchmarks.kit.memory import check_memory
from hiera_mm.engine.launch import check_device
from hiera_mm.errors import UserError, listing
from hiera_mm.network.names import did_you_mean

DTYPES = ('float32', 'bfloat16', 'float16')


@dataclass(frozen=True)
class Setting:
    """How backbones are timed.

    Attributes:
        peers: Whom to time beside ours, by the names of
            :data:`~benchmarks.backbones.contestants.CONTESTANTS`.
        batch: Images in a batch.
        device: A torch device, of CPU or CUDA.
        dtype: ``'float32'``, or another one for mixed precision (autocast).
        threads: Threads of torch on a CPU.
        rounds: How often each is timed.
        warmups: How often each runs before, after a first pass in which its answer is checked.
        train: Time a training step instead of inference.
        compiled: Run all through ``torch.compile``.
        channels_last: Keep images and the weights of convolutions with their channels last.
        memory: Measure the memory of a pass as well.
    """

    peers: tuple[str, ...] = field(default_factory=installed)
    batch: int = 1
    device: str = 'cpu'
    dtype: str = 'float32'
    threads: int = field(default_factory=torch.get_num_threads)
    rounds: int = 10
    warmups: int = 1
    train: bool = False
    compiled: bool = False
    channels_last: bool = False
    memory: bool = True

    def __post_init__(self) -> None:
        for name, least in (('batch', 1), ('threads', 1), ('rounds', 1), ('warmups', 0)):
            if getattr(self, name) < least:
                raise UserError(f'{name} must be at least {least}, got {getattr(self, name)}')
        for name in self.peers:
            if name not in CONTESTANTS or name == OURS:
                known = [known for known in CONTESTANTS if known != OURS]
                raise UserError(
                    f'there is nothing called {name!r} to compare with{did_you_mean(name, known)}; '
                    f'known: {listing(known, limit=len(known))}'
                )
            if not CONTESTANTS[name].installed:
                raise UserError(
                    f'{name} needs the package {CONTESTANTS[name].package}, which is not installed'
                )
        kind = check_device(self.device)
        if self.memory:
            check_memory(kind)
        if self.dtype not in DTYPES:
            raise UserError(f'the dtype must be one of {", ".join(DTYPES)}, got {self.dtype!r}')
        if self.dtype != 'float32':
            _check_autocast(self)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of matrix products."""
        return getattr(torch, self.dtype)

    def precision(self) -> torch.autocast:
        """Return the context in which networks run in the dtype, where that is safe."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, self.torch_dtype, enabled=self.dtype != 'float32')


def _check_autocast(setting: Setting) -> None:
    """Find out by trying whether products and convolutions run in the dtype."""
    matrix = torch.rand(8, 8, device=setting.device)
    image = torch.rand(1, 3, 8, 8, device=setting.device)
    found = set()
    try:
        with torch.no_grad(), warnings.catch_warnings(), setting.precision():
            warnings.simplefilter('ignore')  # that it is not supported: said below
            found = {(matrix @ matrix).dtype, torch.conv2d(image, image).dtype}
    except RuntimeError:
        pass
    if found != {setting.torch_dtype}:
        raise UserError(
            f'torch {torch.__version__} cannot run networks in {setting.dtype} on '
            f'{setting.device}; use another dtype'
        )
