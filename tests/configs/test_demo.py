"""The demo's configs fit its data, and are easily made one's own. test_zoo.py trains them."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config

from demo.shapes import SEG_CLASSES, THING_CLASSES
from hiera_mm.engine.config import walk

ROOT = Path(__file__).parents[2] / 'configs'
CLASSES = {
    'demo/mask-rcnn_hiera-demo_fpn_shapes.py': THING_CLASSES,
    'demo/upernet_hiera-demo_shapes.py': SEG_CLASSES,
}


@pytest.mark.parametrize('name', CLASSES)
def test_the_demo_knows_the_classes_of_its_data(name, load):
    assert load(name).classes == CLASSES[name]


@pytest.mark.parametrize('name', CLASSES)
def test_changing_data_root_and_classes_is_all_it_takes(name, tmp_path):
    lines = (ROOT / name).read_text(encoding='utf-8').splitlines()
    for start, value in (('data_root = ', "'/elsewhere/'"), ('classes = ', "('cat', 'dog')")):
        (index,) = [i for i, line in enumerate(lines) if line.startswith(start)]
        lines[index] = start + value
    text = '\n'.join(lines).replace("'../_base_", f"'{ROOT}/_base_")
    (tmp_path / 'mine.py').write_text(text, encoding='utf-8')
    config = Config.fromfile(tmp_path / 'mine.py')
    assert config.num_classes == 2
    dumped = config.pretty_text
    assert 'data/shapes' not in dumped
    assert "'ring'" not in dumped
    for node in walk(config):
        assert node.get('num_classes', 2) == 2
        assert node.get('data_root', '/elsewhere/') == '/elsewhere/'
        assert tuple(node.get('classes', ('cat', 'dog'))) == ('cat', 'dog')
