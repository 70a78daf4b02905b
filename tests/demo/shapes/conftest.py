from __future__ import annotations

import pytest

from demo.shapes import ShapesPaths, make_shapes


@pytest.fixture(scope='session')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> ShapesPaths:
    """A small set, to be read only."""
    root = tmp_path_factory.mktemp('data') / 'shapes'
    return make_shapes(root, num_train=90, num_val=60, seed=3)
