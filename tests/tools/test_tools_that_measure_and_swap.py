"""Tools as they are typed, run in this process: what they do has tests of its own elsewhere."""

from __future__ import annotations

import re

import pytest


@pytest.fixture(autouse=True)
def at_work(workplace, monkeypatch):
    """Make the workplace the current folder of this process."""
    monkeypatch.chdir(workplace)


def test_a_backbone_is_swapped_by_command(run_here, workplace):
    name = 'mmdet/rpn/rpn_r50_fpn_1x_coco'
    options = ('--arch', 'tiny', '--out', 'swapped/mine.py')
    done = run_here('swap_backbone.py', name, *options)
    assert done.returncode == 0, done.stderr
    written = workplace / 'swapped' / 'mine.py'
    assert f'Written: {written}' in done.stdout
    assert written.read_text() in done.stdout
    again = run_here('swap_backbone.py', name, *options)
    assert again.returncode == 2
    assert 'give --force' in again.stderr


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (('mmdet/mask-rcnn_r50_fpn_1x_coc',), 'Did you mean mmdet/mask_rcnn/mask-rcnn_r50'),
        (('quick.py',), 'quick cannot take Hiera: it has Hiera already'),
        (('quick.py', '--arch', 'tinny'), "'tiny'"),
        (('quick.py', '--weights', 'no.pth'), 'no.pth'),
    ],
)
def test_what_cannot_be_swapped_is_one_paragraph(run_here, args, message):
    done = run_here('swap_backbone.py', *args)
    assert done.returncode == 2
    assert message in done.stderr


def test_costs_are_measured_by_command(run_here, workplace):
    sizes = ('--size', 64, '--size', 64, 96)
    done = run_here('cost.py', 'quick.py', *sizes, '--repeats', 1, '--csv', 'c')
    assert done.returncode == 0, done.stderr
    assert re.search(r'quick, 64x64\n(.+\n)*\npart .*\n-+\nbackbone.stem ', done.stdout)
    assert 'quick, 64x96' in done.stdout
    assert 'quick at 64x96: 2 predictions' in done.stderr
    assert len((workplace / 'c').read_text().splitlines()) == 1 + 2 * 8
    few = ('--no-time', '--no-activations', '--cfg-options', 'model.auxiliary_head=None')
    rows = run_here('cost.py', 'quick.py', '--markdown', *few)
    assert re.search(r'\| quick +\| 160x192 \| +[\d.]+ \|', rows.stdout)


def test_costs_that_cannot_be_measured_are_one_paragraph(run_here):
    done = run_here('cost.py', 'quick.py', '--size', 16)
    assert done.returncode == 2
    assert 'at least 32 pixels' in done.stderr
