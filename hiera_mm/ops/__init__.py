"""mmcv's operators, served by torchvision where mmcv has no compiled ones.

A plain install of mmcv has no extension module ``mmcv._ext``, so ``mmcv.ops`` and with it
``mmdet.models`` cannot be imported. `install` is the one door to what hiera_mm does about that:

- A `Finder` at the end of ``sys.meta_path`` supplies a `StandIn` for the extension. It is asked
  last, so a compiled mmcv is never touched.
- Toolbox modules that were imported before it, without operators, are repaired (`mend`).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

from .mend import mend

EXTENSION = 'mmcv._ext'


class OperatorUnavailable(NotImplementedError):
    """An operator of mmcv was called that neither a compiled mmcv nor torchvision provides."""


def install() -> None:
    """Offer the stand-in for ``mmcv._ext`` and mend what was imported without it.

    Calling it again does nothing more.

    Raises:
        ImportError: If a module that was imported earlier cannot be mended; the message says what
            to import first.
    """
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.append(Finder())
    mend()


def source() -> str:
    """Where mmcv's operators come from in this process.

    Returns:
        ``'compiled'`` for mmcv's own, ``'torchvision'`` for the stand-in, ``'broken'`` if they do
        not load (mostly a compiled mmcv made for another torch), ``'missing'`` without mmcv or
        before `install`.
    """
    try:
        importlib.import_module('torch')  # the compiled extension needs its libraries in memory
        extension = importlib.import_module(EXTENSION)
    except ModuleNotFoundError:
        return 'missing'
    except Exception:
        return 'broken'
    return 'torchvision' if isinstance(extension, StandIn) else 'compiled'


class StandIn(ModuleType):
    """``mmcv._ext`` without compiled code.

    mmcv looks up every operator it knows when ``mmcv.ops`` is imported, so every name must exist;
    the ones without an implementation raise `OperatorUnavailable` when they are called.
    """

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith('_'):
            raise AttributeError(f'module {self.__name__!r} has no attribute {name!r}')

        def unavailable(*args: Any, **kwargs: Any) -> NoReturn:
            raise OperatorUnavailable(
                f'mmcv operator {name!r} needs a compiled mmcv: this mmcv has none, and '
                f'torchvision offers no replacement for it.\n{_how_to_compile()}'
            )

        return unavailable


class Finder(MetaPathFinder, Loader):
    """Finds and loads the stand-in; meant for the end of ``sys.meta_path``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the stand-in's spec for ``mmcv._ext`` and None for anything else."""
        if fullname != EXTENSION:
            return None
        return ModuleSpec(fullname, self, origin='torchvision, by hiera_mm.ops')

    def create_module(self, spec: ModuleSpec) -> StandIn:
        """Return the empty stand-in."""
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Fill the stand-in with the operators that torchvision can serve."""
        kernels = importlib.import_module('hiera_mm.ops.kernels')  # imports torch
        vars(module).update(kernels.KERNELS)


def _how_to_compile() -> str:
    """The shell commands that compile the operators of the installed mmcv."""
    installed, version = 'onedl-mmcv', '<version>'
    for name in ('mmcv', 'mmcv-lite', 'onedl-mmcv'):
        try:
            installed, version = name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    package = 'mmcv' if installed == 'mmcv-lite' else installed
    folder = f'{package.replace("-", "_")}-{version}'
    # mmcv's setup.py asks for C++17, torch's headers have asked for C++20 since 2.10, and
    # mmcv 2.1.0 needs pkg_resources, which setuptools 82 dropped.
    return (
        'These commands compile it (with g++ 10 or newer; for CUDA also nvcc; about 16 minutes on '
        '2 cores):\n'
        "  pip install 'setuptools<82' wheel ninja\n"
        '  pip download --no-deps --no-build-isolation --no-binary :all: '
        f'{package}=={version}\n'
        f'  tar xf {folder}.tar.gz\n'
        f"  sed -i 's/c++1[47]/c++20/g' {folder}/setup.py\n"
        f'  pip uninstall -y {installed}\n'
        f'  pip install --no-build-isolation --no-deps ./{folder}'
    )
