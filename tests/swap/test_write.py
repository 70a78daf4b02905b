import random
from pathlib import Path

import pytest
from mmengine.config import Config

from hiera_mm.swap.write import WIDTH, base_module, base_path, differences, short_config
from hiera_mm.trial.configs import configs_root


def random_config(rng, depth=3):
    """Return a dict of random keys, values and depth, as of a config."""
    made = {}
    for key in rng.sample('abcdef', rng.randint(1, 5)):
        kind = rng.random()
        if kind < 0.4 and depth:
            made[key] = random_config(rng, depth - 1)
        elif kind < 0.5 and depth:
            made[key] = [random_config(rng, depth - 1) for _ in range(rng.randint(0, 2))]
        else:
            made[key] = rng.choice(
                [1, 0, 0.5, -1e-6, True, None, 'text', "it's", [], (1,), [1, 2], {3: 'x', 'y z': 1}]
            )
    return made


@pytest.mark.parametrize('seeds', [range(20), pytest.param(range(20, 200), marks=pytest.mark.slow)])
def test_what_is_written_makes_the_one_config_of_the_other(seeds, tmp_path):
    remarks = {('a',): 'why a', ('b', 'a'): 'why b ' * 40, ('c', 0): 'of a list'}
    for seed in seeds:
        rng = random.Random(seed)
        old, new = random_config(rng), random_config(rng)
        new = {**{key: value for key, value in old.items() if key not in new}, **new}
        lines = [f'{key} = {value!r}' for key, value in old.items()]
        (tmp_path / 'old.py').write_text('\n'.join(lines))
        text = short_config('old.py', old, new, remarks, 'head')
        (tmp_path / 'new.py').write_text(text)
        assert Config.fromfile(tmp_path / 'new.py').to_dict() == new, seed
        assert max(map(len, text.splitlines())) <= WIDTH


def test_only_what_differs_is_written():
    old = dict(a=dict(type='A', x=1, y=[1, 2]), b=1, c=dict(x=1), d=None)
    new = dict(a=dict(type='A', x=2, y=[1, 2]), b=1, c=dict(y=1), d=dict(z=1))
    assert differences(old, new) == dict(
        a=dict(x=2), c=dict(_delete_=True, y=1), d=dict(_delete_=True, z=1)
    )


def test_another_type_is_another_thing():
    old = dict(neck=dict(type='FPN', in_channels=[1], out_channels=2))
    new = dict(neck=dict(type='PAFPN', in_channels=[1], out_channels=2))
    assert differences(old, new)['neck'] == dict(_delete_=True, **new['neck'])


def test_numbers_that_are_equal_and_not_the_same_are_written():
    assert differences(dict(a=1, b=[1]), dict(a=True, b=(1,))) == dict(a=True, b=(1,))


def test_a_person_can_read_it():
    new = dict(
        model=dict(backbone=dict(type='Hiera', arch='tiny')),
        schedule=[dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500)] * 2,
    )
    old = dict(model=dict(backbone=dict(type='ResNet', depth=50)), schedule=None)
    remarks = {('model', 'backbone'): 'A reason.', ('schedule',): 'Another.'}
    assert (
        short_config('old.py', old, new, remarks, 'What it is.')
        == """# What it is.
_base_ = 'old.py'

model = dict(
    # A reason.
    backbone=dict(_delete_=True, type='Hiera', arch='tiny'),
)

# Another.
schedule = [
    dict(type='LinearLR', start_factor=1e-06, by_epoch=False, begin=0, end=1500),
    dict(type='LinearLR', start_factor=1e-06, by_epoch=False, begin=0, end=1500),
]
"""
    )


def test_bases_are_named_from_where_the_config_is():
    original, out = Path('/home/me/configs/a/old.py'), Path('/home/me/configs/b/new.py')
    assert base_path(original, out) == '../a/old.py'
    assert base_module(original, out) == '..a.old'
    assert base_module(original, original.with_name('new.py')) == '.old'
    shipped = configs_root('mmdet').parents[1] / 'configs' / 'a' / 'old.py'
    assert base_path(shipped, out) == str(shipped)
    assert base_module(shipped, out) == 'mmdet.configs.a.old'
