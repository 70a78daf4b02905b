"""The Hiera backbone for MMDetection, MMSegmentation and every other mmengine toolbox.

``custom_imports = dict(imports=['hiera_mm'])`` in a config is all it takes: importing this package
registers ``Hiera``, its pretraining, the constructor of its optimiser and its FSDP strategy, and
supplies mmcv's operators where mmcv has no compiled ones.
"""

from __future__ import annotations

import warnings

__version__ = '0.1.0'

try:
    from hiera_mm import ops

    ops.install()

    from hiera_mm import pretrain, quiet  # noqa: F401
    from hiera_mm.backbone import Hiera  # noqa: F401
    from hiera_mm.engine import fsdp, optimizer  # noqa: F401

    quiet.leave_out_onedl()
except Exception as error:
    # Nothing is registered then; the doctor must run all the same.
    warnings.warn(
        f'hiera_mm cannot work here: {error!r}. `python -m hiera_mm.doctor` says what to do.',
        stacklevel=2,
    )
