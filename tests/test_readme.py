"""What the README shows has to work."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

import hiera_mm
from hiera_mm.network import VARIANTS
from hiera_mm.swap.swapping import prepare, read
from hiera_mm.trial.models import build

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')


@pytest.mark.slow
def test_the_config_shown_is_the_one_that_the_tool_writes():
    pytest.importorskip('mmdet')
    text = (ROOT / 'docs' / 'swap.md').read_text(encoding='utf-8')
    name = 'mmdet/mask_rcnn/mask-rcnn_r50_fpn_1x_coco'
    weights = 'release://base/mae_in1k'
    assert f'{name} --weights {weights}' in text
    (shown,) = re.findall(r"^_base_ = '\.\.\./(.*?)(?=^```)", text, flags=re.DOTALL | re.MULTILINE)
    written = prepare(read(name), 'base', weights=weights).text(Path('my_config.py'))
    assert written.endswith(shown)


@pytest.mark.parametrize('toolbox', ['mmdet', 'mmseg'])
def test_the_configs_shown_make_models(toolbox, tmp_path):
    module = pytest.importorskip(toolbox)
    long_name = {'mmdet': 'mmdetection', 'mmseg': 'mmsegmentation'}[toolbox]
    (text,) = re.findall(rf"^(_base_ = '{long_name}/.*?)(?=^```)", README, re.DOTALL | re.MULTILINE)
    shipped = Path(module.__file__).parent / '.mim'
    file = tmp_path / 'config.py'
    file.write_text(text.replace(f"'{long_name}/", f"'{shipped}/"))
    config = Config.fromfile(file)
    model = build(config.model, toolbox)
    assert type(model.backbone) is hiera_mm.backbone.Hiera
    assert config.optim_wrapper.optimizer.type == 'AdamW'
    assert 'momentum' not in config.optim_wrapper.optimizer


def test_the_table_of_sizes_is_true():
    page = (ROOT / 'docs' / 'backbone.md').read_text(encoding='utf-8')
    pattern = r'^\| `(\w+)` \| ([\d, ]+) \| ([\d, ]+) \| ([\d.]+) M \|'
    rows = re.findall(pattern, page, re.MULTILINE)
    assert [row[0] for row in rows] == list(VARIANTS)
    for name, dims, depths, millions in rows:
        variant = VARIANTS[name]
        assert tuple(map(int, dims.split(','))) == variant.dims
        assert tuple(map(int, depths.split(','))) == variant.depths
        with torch.device('meta'):
            trunk = hiera_mm.network.HieraTrunk(name, out_norm_eps=None)
        assert f'{sum(p.numel() for p in trunk.parameters()) / 1e6:.1f}' == millions


@pytest.mark.parametrize('page', sorted(ROOT.glob('*.md')) + sorted(ROOT.glob('*/*.md')), ids=str)
def test_every_page_that_is_linked_exists(page):
    links = re.findall(r'\]\(([^)]+)\)', page.read_text(encoding='utf-8'))
    local = [link.partition('#')[0] for link in links if '://' not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []
