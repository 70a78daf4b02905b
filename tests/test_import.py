"""What `import hiera_mm` brings with it, and what it leaves for later."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys

from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, STRATEGIES

import hiera_mm

heavy = ['cv2', 'mmcv', 'mmdet', 'mmseg', 'torchvision', 'mmengine.runner', 'mmengine._strategy',
         'mmengine.visualization']
assert not [name for name in heavy if name in sys.modules]
assert 'HieraOptimWrapperConstructor' in OPTIM_WRAPPER_CONSTRUCTORS
# What a config names is there all the same.
cfg = Config(dict(strategy=dict(type='HieraFSDPStrategy')))
assert type(STRATEGIES.build(cfg.strategy)).__name__ == 'HieraFSDPStrategy'
"""


def test_nothing_heavy_is_imported_before_it_is_used():
    subprocess.run([sys.executable, '-c', PROGRAM], check=True)
