from __future__ import annotations

import pytest
from mmengine.config import Config

from hiera_mm.cost.sizes import parse_size, test_size
from hiera_mm.errors import ConfigError, UserError


def config(*pipeline: dict) -> Config:
    return Config(dict(test_dataloader=dict(dataset=dict(pipeline=list(pipeline)))))


@pytest.mark.parametrize(
    ('pipeline', 'size'),
    [
        ([dict(type='Resize', scale=(1333, 800), keep_ratio=True)], (800, 1344)),
        ([dict(type='Resize', scale=(800, 1333), keep_ratio=True)], (800, 1344)),
        ([dict(type='Resize', scale=(2048, 500))], (512, 2048)),
        ([dict(type='Resize', scale=(100, 200), keep_ratio=False)], (224, 128)),
        ([dict(type='Resize', scale=640)], (640, 640)),
        (
            [
                dict(type='Resize', scale=(1024, 1024), keep_ratio=True),
                dict(type='Pad', size=(1024, 768)),
            ],
            (768, 1024),
        ),
        ([dict(type='Pad', size_divisor=32), dict(type='Resize', scale=(64, 64))], (64, 64)),
    ],
)
def test_the_size_of_the_test(pipeline, size):
    assert test_size(config(*pipeline)) == size


def test_data_sets_inside_each_other():
    inner = dict(pipeline=[dict(type='Resize', scale=(320, 320))])
    cfg = Config(dict(test_dataloader=dict(dataset=dict(type='Repeat', dataset=inner))))
    assert test_size(cfg) == (320, 320)


@pytest.mark.parametrize('pipeline', [[], [dict(type='Resize', scale_factor=0.5)]])
def test_no_size(pipeline):
    with pytest.raises(ConfigError, match='--size HEIGHT WIDTH'):
        test_size(config(*pipeline))


def test_given_sizes():
    assert parse_size([64]) == (64, 64)
    assert parse_size([800, 1333]) == (800, 1333)
    with pytest.raises(UserError, match='Repeat --size'):
        parse_size([1, 2, 3])
    with pytest.raises(UserError, match='at least 32'):
        parse_size([640, 16])
