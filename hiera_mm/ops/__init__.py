"""mmcv's operators, served by torchvision where mmcv has no compiled ones.

A plain install of mmcv has no extension module ``mmcv._ext``, so ``mmcv.ops`` and with it
``mmdet.models`` cannot be imported. `install` offers a stand-in for that extension. It is asked
last, so a compiled mmcv is never touched.
"""

from __future__ import annotations

import importlib
import sys

from hiera_mm.ops.mend import mend
from hiera_mm.ops.standin import EXTENSION, Finder, OperatorUnavailable, StandIn

__all__ = ['OperatorUnavailable', 'install', 'source']


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
