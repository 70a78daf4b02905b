"""What the README shows has to work."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

import hiera_mm
from hiera_mm.network import VARIANTS

README = (Path(__file__).parents[1] / 'README.md').read_text(encoding='utf-8')
SNIPPETS = re.findall(r'```python\n(_base_.*?)```', README, flags=re.DOTALL)


def test_both_toolboxes_have_an_example_of_about_ten_lines():
    assert len(SNIPPETS) == 2
    assert all(snippet.count('\n') <= 12 for snippet in SNIPPETS)


@pytest.mark.parametrize(
    ('snippet', 'toolbox', 'folder'),
    [(SNIPPETS[0], 'mmdet', 'mask_rcnn'), (SNIPPETS[1], 'mmseg', 'upernet')],
)
def test_the_examples_build_on_the_installed_configs(snippet, toolbox, folder, tmp_path):
    module = pytest.importorskip(toolbox)
    configs = Path(module.__file__).parent / '.mim' / 'configs' / folder
    path = tmp_path / 'my_config.py'
    path.write_text(snippet.replace("_base_ = '", f"_base_ = '{configs}/"), encoding='utf-8')
    config = Config.fromfile(path)
    utils = pytest.importorskip(f'{toolbox}.utils')
    utils.register_all_modules(init_default_scope=False)
    init_default_scope(toolbox)
    models = pytest.importorskip(f'{toolbox}.registry').MODELS
    with torch.device('meta'):
        model = models.build(config.model)
    assert type(model.backbone).__name__ == 'Hiera'
    assert config.optim_wrapper.optimizer.type == 'AdamW'
    assert 'momentum' not in config.optim_wrapper.optimizer


def test_the_table_of_sizes_is_true():
    rows = re.findall(
        r'^\| `(\w+)` \| ([\d, ]+) \| ([\d, ]+) \| ([\d.]+) M \|', README, re.MULTILINE
    )
    assert [row[0] for row in rows] == list(VARIANTS)
    for name, dims, depths, millions in rows:
        variant = VARIANTS[name]
        assert tuple(map(int, dims.split(','))) == variant.dims
        assert tuple(map(int, depths.split(','))) == variant.depths
        with torch.device('meta'):
            trunk = hiera_mm.network.HieraTrunk(name, out_norm_eps=None)
        assert f'{sum(p.numel() for p in trunk.parameters()) / 1e6:.1f}' == millions


def test_every_page_that_is_linked_exists():
    root = Path(__file__).parents[1]
    links = [link for link in re.findall(r'\]\(([^)]+)\)', README) if '://' not in link]
    assert links
    assert [link for link in links if not (root / link.partition('#')[0]).exists()] == []
