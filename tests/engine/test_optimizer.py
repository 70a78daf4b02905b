import pytest
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from torch import nn

from hiera_mm.backbone import Hiera
from hiera_mm.errors import ConfigError
from hiera_mm.network import VARIANTS

LR, DECAY = 1e-3, 0.05


class Detector(nn.Module):
    """A backbone with something after it."""

    def __init__(self, **options):
        super().__init__()
        self.backbone = Hiera(**options)
        self.head = nn.Linear(4, 2)


def settings_of(model, **paramwise):
    """Return learning rate and weight decay of each trained parameter, by name."""
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='AdamW', lr=LR, weight_decay=DECAY),
            constructor='HieraOptimWrapperConstructor',
            paramwise_cfg=paramwise,
        ),
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for group in wrapper.optimizer.param_groups:
        for parameter in group['params']:
            assert names[id(parameter)] not in found
            found[names[id(parameter)]] = (group['lr'], group['weight_decay'])
    return found


@pytest.mark.parametrize(('arch', 'depth'), [('tiny', 12), ('base', 24), ('large', 48)])
def test_each_block_learns_at_its_own_rate(arch, depth):
    variant = VARIANTS[arch]
    slim = dict(embed_dim=8, num_heads=1, depths=variant.depths)
    found = settings_of(Detector(arch=slim), decay_rate=0.7)
    assert sum(variant.depths) == depth
    for block in range(depth):
        rate, _ = found[f'backbone.blocks.{block}.mlp.fc1.weight']
        assert rate == pytest.approx(LR * 0.7 ** (depth - block), rel=1e-12)
    for name in ('backbone.pos_embed', 'backbone.patch_embed.proj.weight'):
        assert found[name][0] == pytest.approx(LR * 0.7 ** (depth + 1), rel=1e-12)
    assert found['backbone.out_norms.3.weight'][0] == LR
    assert found['head.weight'] == (LR, DECAY)


def test_what_has_no_matrix_does_not_decay(small_arch):
    model = Detector(arch=small_arch, rel_pos='global', pos_embed='absolute_win')
    found = settings_of(model)
    free = {name for name, (_, decay) in found.items() if decay == 0}
    for name, parameter in model.backbone.named_parameters():
        exempt = parameter.ndim == 1 or 'pos_embed' in name or 'rel_pos' in name
        assert (f'backbone.{name}' in free) == exempt, name
    assert {'backbone.pos_embed', 'backbone.pos_embed_window'} <= free
    # What is outside the backbone is left to the options of mmengine's constructor.
    assert found['head.bias'] == (LR, DECAY)
    assert all(rate == LR for rate, _ in found.values())


def test_factors_of_the_config_multiply_the_rates(small_arch):
    found = settings_of(
        Detector(arch=small_arch),
        decay_rate=0.5,
        bias_decay_mult=0.0,
        custom_keys={'backbone': dict(lr_mult=0.1, decay_mult=2.0)},
    )
    depth = sum(small_arch['depths'])
    rate, decay = found[f'backbone.blocks.{depth - 1}.mlp.fc1.weight']
    assert rate == pytest.approx(LR * 0.1 * 0.5)
    assert decay == pytest.approx(DECAY * 2)
    assert found['backbone.blocks.0.norm1.weight'][1] == 0
    assert found['head.bias'] == (LR, 0)


def test_frozen_parts_are_left_out_and_groups_are_few(small_arch):
    model = Detector(arch=small_arch, frozen_stages=2)
    found = settings_of(model, decay_rate=0.7)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(found) == trained
    assert not any(name.startswith('backbone.blocks.0.') for name in found)
    # Three blocks and what follows them, with weight decay and without.
    assert len(set(found.values())) == 8


def test_the_groups_are_told_as_a_table(small_arch, monkeypatch):
    lines = []
    monkeypatch.setattr(MMLogger, 'callHandlers', lambda _, record: lines.append(record.msg))
    MMLogger.get_instance('layer decay')
    settings_of(Detector(arch=small_arch), decay_rate=0.7)
    assert not any(line.startswith('paramwise_options') for line in lines)
    (table,) = [line for line in lines if line.startswith('learning rate')]
    head, *rows = table.splitlines()
    assert head.split() == ['learning', 'rate', 'weight', 'decay', 'tensors', 'parameters']
    assert float(rows[0].split()[0]) == pytest.approx(LR * 0.7**7, rel=1e-3)
    assert float(rows[-1].split()[0]) == LR


@pytest.mark.parametrize('rate', [0, -0.5, 1.5, True, '0.7'])
def test_an_impossible_rate_is_refused(small_arch, rate):
    with pytest.raises(ConfigError, match='decay_rate must be a number above 0 and at most 1'):
        settings_of(Detector(arch=small_arch), decay_rate=rate)
