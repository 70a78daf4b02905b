from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from mmengine.model import BaseModule
from torch import nn

from hiera_mm.engine import CheckpointError, make_loading_safe
from hiera_mm.engine.fit import (
    check_pretrained,
    fit,
    require_complete,
    require_start,
    state_dict_of,
)


class Net(BaseModule):
    """Twelve tensors to fit: ten of the body, two of the head."""

    def __init__(self, classes: int = 3, init_cfg: dict | None = None) -> None:
        super().__init__()
        self.body = BaseSequential(*(nn.Linear(2, 2) for _ in range(5)), init_cfg=init_cfg)
        self.head = nn.Linear(2, classes)


class BaseSequential(BaseModule):
    def __init__(self, *layers: nn.Module, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.layers = nn.Sequential(*layers)


class Renaming(nn.Module):
    """Reads weights that an older version of it called `old`."""

    def __init__(self) -> None:
        super().__init__()
        self.new = nn.Parameter(torch.zeros(2))

    def _load_from_state_dict(self, state_dict, prefix, *args):
        if prefix + 'old' in state_dict:
            state_dict[prefix + 'new'] = state_dict.pop(prefix + 'old')
        super()._load_from_state_dict(state_dict, prefix, *args)


def state(**tensors: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
    return OrderedDict((name.replace('__', '.'), tensor) for name, tensor in tensors.items())


def test_misfits_are_named():
    own = fit(Net(), Net().state_dict())
    assert (own.complete, own.share, own.total) == (True, 1, 12)
    weights = Net(classes=5).state_dict()
    del weights['body.layers.0.bias']
    weights['extra'] = torch.ones(1)
    found = fit(Net(), weights)
    assert found.missing == ['body.layers.0.bias']
    assert found.unexpected == ['extra']
    assert found.mismatched == [
        'head.weight (file [5, 2], model [3, 2])',
        'head.bias (file [5], model [3])',
    ]
    assert found.share == pytest.approx(9 / 12)
    assert '9 of the model' in str(found)


def test_model_stays_as_it_is():
    model = Net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fit(model, Net().state_dict())
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_models_that_rename_old_weights_are_given_their_chance():
    assert fit(Renaming(), state(old=torch.ones(2))).complete


def test_batch_norm_counter_is_not_needed():
    weights = nn.BatchNorm1d(2).state_dict()
    del weights['num_batches_tracked']
    assert fit(nn.BatchNorm1d(2), weights).complete
    del weights['running_mean']
    assert fit(nn.BatchNorm1d(2), weights).missing == ['running_mean']


def test_state_dict_of():
    weights = state(module__a=torch.ones(1), b=torch.ones(1))
    assert list(state_dict_of({'state_dict': weights}, 'x.pth')) == ['a', 'b']
    assert list(state_dict_of(weights, 'x.pth')) == ['a', 'b']
    with pytest.raises(CheckpointError, match=r"expected a key 'state_dict'.*found model_state"):
        state_dict_of({'model_state': weights}, 'x.pth')
    # The versions of the modules are kept.
    weights = nn.BatchNorm1d(2).state_dict()
    assert state_dict_of({'state_dict': weights}, 'x.pth')._metadata[''] == {'version': 2}


def test_testing_needs_every_tensor():
    require_complete(Net(), {'state_dict': Net().state_dict()}, 'x.pth')
    with pytest.raises(CheckpointError, match=r'x\.pth belongs to another model.*nothing was load'):
        require_complete(Net(), {'state_dict': Net(classes=4).state_dict()}, 'x.pth')


def test_training_may_start_from_other_classes(logged):
    require_start(Net(), Net().state_dict(), 'x.pth', 'load_from')
    assert not logged
    require_start(Net(), Net(classes=4).state_dict(), 'x.pth', 'load_from')
    assert 'fills part of the model' in logged[0]
    assert 'head.weight (file [4, 2], model [3, 2])' in logged[0]


def test_training_does_not_start_from_another_model():
    with pytest.raises(CheckpointError, match=r'named by load_from.*0 of the model.s 12 tensors'):
        require_start(Net(), state(conv__weight=torch.ones(1)), 'x.pth', 'load_from')


def test_pretrained_parts_are_checked(tmp_path):
    make_loading_safe()
    path = str(tmp_path / 'weights.pth')
    torch.save({'state_dict': Net().state_dict()}, path)
    check_pretrained(Net(init_cfg=dict(type='Pretrained', checkpoint=path, prefix='body')))
    with pytest.raises(CheckpointError, match=r'model\.body\.init_cfg, belongs to another model'):
        check_pretrained(Net(init_cfg=dict(type='Pretrained', checkpoint=path)))
    with pytest.raises(CheckpointError, match=r"no tensor whose name starts with 'neck\.'"):
        check_pretrained(Net(init_cfg=dict(type='Pretrained', checkpoint=path, prefix='neck')))
    with pytest.raises(CheckpointError, match='does not exist'):
        check_pretrained(Net(init_cfg=dict(type='Pretrained', checkpoint=path + 'x')))
