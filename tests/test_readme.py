"""What the README shows has to work."""

import re
from pathlib import Path

import pytest
import torch

import hiera_mm
from hiera_mm.network import VARIANTS
from hiera_mm.swap.swapping import prepare, read

README = (Path(__file__).parents[1] / 'README.md').read_text(encoding='utf-8')
DOCS = Path(__file__).parents[1] / 'docs'


def shown(text):
    """Return the configs that a page shows as written, without the folder of the toolbox."""
    return re.findall(
        r"^_base_ = '\.\.\./[^\n]*\n.*?(?=^```)", text, flags=re.DOTALL | re.MULTILINE
    )


@pytest.mark.parametrize(('page', 'arch'), [('README.md', 'tiny'), ('docs/swap.md', 'base')])
def test_the_configs_shown_are_those_that_the_tool_writes(page, arch):
    pytest.importorskip('mmdet')
    text = (DOCS.parent / page).read_text(encoding='utf-8')
    (expected,) = shown(text)
    name = 'mmdet/mask_rcnn/mask-rcnn_r50_fpn_1x_coco'
    weights = f'release://{arch}/mae_in1k'
    assert name in text
    assert f'--weights {weights}' in text
    written = prepare(read(name), arch, weights=weights).text(Path('my_config.py'))
    _, _, base_and_rest = written.partition('\n_base_ = ')
    base, _, rest = base_and_rest.partition('\n')
    first, _, body = expected.partition('\n')
    assert base.endswith(first.removeprefix("_base_ = '..."))
    start, cut, _ = body.partition('\n...\n')  # the README shows the beginning
    assert rest.startswith(start) if cut else rest == body


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
