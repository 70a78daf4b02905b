"""Does a checkpoint belong to a model? Found out before anything is loaded."""

from __future__ import annotations

import copy
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import BaseModule, BaseTTAModel, is_model_wrapper
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ..errors import CheckpointError, listing
from .config import type_name, warn

# A fine-tuned model shares nearly all of its tensors with the one before; another architecture
# shares none, or a few by accident.
MIN_SHARE = 0.1


@dataclass(frozen=True)
class Fit:
    """How the tensors of a checkpoint meet those of a model.

    Attributes:
        total: Number of tensors in the model.
        missing: Names that only the model has.
        unexpected: Names that only the checkpoint has.
        mismatched: Names that both have, with different shapes; each with the two shapes.
    """

    total: int
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]

    @property
    def complete(self) -> bool:
        """Whether every tensor of the model is filled."""
        return not self.missing and not self.mismatched

    @property
    def share(self) -> float:
        """The part of the model's tensors that is filled, from 0 to 1."""
        return 1 - (len(self.missing) + len(self.mismatched)) / max(self.total, 1)

    def __str__(self) -> str:
        lines = [f"{round(self.share * self.total)} of the model's {self.total} tensors fit"]
        if self.missing:
            lines.append(f'missing in the file ({len(self.missing)}): {listing(self.missing)}')
        if self.mismatched:
            lines.append(f'other shapes ({len(self.mismatched)}): {listing(self.mismatched)}')
        if self.unexpected:
            lines.append(f'only in the file ({len(self.unexpected)}): {listing(self.unexpected)}')
        return '\n  '.join(lines)


def state_dict_of(checkpoint: Mapping[str, Any], path: object) -> OrderedDict[str, Tensor]:
    """Return the weights in a checkpoint, where and under the names that mmengine looks for them.

    Args:
        checkpoint: mmengine's checkpoint, or a bare state dict.
        path: Where it comes from, for messages; as in all that follows.

    Returns:
        Tensors by name, without the ``module.`` of a distributed wrapper.

    Raises:
        CheckpointError: If there are no weights.
    """
    state = checkpoint.get('state_dict', checkpoint)
    if not isinstance(state, Mapping) or not any(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"{path} has no weights where mmengine looks for them: expected a key 'state_dict', or "
            f'tensors at the top; found {listing(list(checkpoint)) or "nothing"}.'
        )
    renamed = OrderedDict((re.sub(r'^module\.', '', name), v) for name, v in state.items())
    renamed._metadata = getattr(state, '_metadata', OrderedDict())  # versions of the modules
    return renamed


def fit(model: nn.Module, state: OrderedDict[str, Tensor]) -> Fit:
    """Find out how `state` would load into `model`, with the model's own loading code.

    The load is rehearsed on a copy of the model that has shapes and no data, so the model is
    untouched and modules that rename or convert old weights are given their chance.

    Args:
        model: The model; wrappers for distribution and test-time augmentation are looked through.
        state: Tensors by name.

    Returns:
        What fits and what does not.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    skeleton = _without_data(model)
    state = copy.copy(state)
    mismatched = {}
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*no-op')  # copying into a tensor without data
        try:
            keys = skeleton.load_state_dict(state, strict=False)
        except RuntimeError as error:
            found = re.findall(r'size mismatch for (\S+): .*?\[(.*?)\].*?\[(.*?)\]', str(error))
            if not found:
                raise
            for name, theirs, ours in found:
                mismatched[name] = f'{name} (file [{theirs}], model [{ours}])'
                state.pop(name, None)
            keys = skeleton.load_state_dict(state, strict=False)
    missing = [
        name
        for name in keys.missing_keys
        if name not in mismatched and not name.endswith('num_batches_tracked')
    ]
    total = sum(not name.endswith('num_batches_tracked') for name in skeleton.state_dict())
    return Fit(total, missing, list(keys.unexpected_keys), list(mismatched.values()))


def require_complete(model: nn.Module, checkpoint: Mapping[str, Any], path: object) -> None:
    """Make sure that a checkpoint fills the whole model, as testing and resuming need.

    Raises:
        CheckpointError: If any tensor of the model would stay as it is.
    """
    found = fit(model, state_dict_of(checkpoint, path))
    if not found.complete:
        raise CheckpointError(
            f'{path} belongs to another model than the config describes, and nothing was loaded: '
            f'{found}\nUse the config that the checkpoint was trained with; training saves it '
            'beside the checkpoint.'
        )
    if found.unexpected:
        warn(f'{path} has tensors that the model has no use for: {listing(found.unexpected)}')


def require_start(
    model: nn.Module, state: OrderedDict[str, Tensor], path: object, key: str
) -> None:
    """Make sure that weights to start a training from have something to do with the model.

    Heads for another number of classes are left as they are, with a warning: that is ordinary
    fine-tuning.

    Args:
        model: The model, or the part of it, that is to start from the weights.
        state: Tensors by name.
        path: Where they come from.
        key: The place in the config that names the file.

    Raises:
        CheckpointError: If nothing or next to nothing of the model would be filled.
    """
    found = fit(model, state)
    if found.share < MIN_SHARE:
        raise CheckpointError(
            f'{path}, named by {key}, belongs to another model, and nothing was loaded: {found}\n'
            'Weights of a backbone alone go into model.backbone.init_cfg = '
            "dict(type='Pretrained', checkpoint=...)."
        )
    if not found.complete:
        warn(
            f'{path}, named by {key}, fills part of the model; the rest starts from its own '
            f'initialisation: {found}'
        )


def check_pretrained(model: nn.Module) -> None:
    """Check the weights that ``init_cfg=dict(type='Pretrained', ...)`` names anywhere in a model.

    mmengine logs a misfit and goes on, so that training starts from nothing unnoticed. `Hiera` and
    its autoencoder judge for themselves; other modules with their own way of reading weights are
    left to it.

    Raises:
        CheckpointError: If a file cannot be read, or fits next to nothing of its module.
    """
    for name, module in model.named_modules():
        if hasattr(module, 'check_pretrained'):
            module.check_pretrained()
            continue
        init_cfg = getattr(module, 'init_cfg', None)
        if type_name(init_cfg) not in ('Pretrained', 'PretrainedInit'):
            continue
        if getattr(type(module), 'init_weights', None) is not BaseModule.init_weights:
            continue
        path = init_cfg['checkpoint']
        key = f'model.{name}.init_cfg' if name else 'model.init_cfg'
        state = state_dict_of(CheckpointLoader.load_checkpoint(path, 'cpu'), path)
        prefix = init_cfg.get('prefix')
        if prefix:
            prefix = prefix.rstrip('.') + '.'
            state = OrderedDict(
                (name.removeprefix(prefix), tensor)
                for name, tensor in state.items()
                if name.startswith(prefix)
            )
            if not state:
                raise CheckpointError(
                    f'{path}, named by {key}, has no tensor whose name starts with {prefix!r}.'
                )
        require_start(module, state, path, key)


def _without_data(model: nn.Module) -> nn.Module:
    """Copy a model with its tensors on the meta device; takes no memory to speak of."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.to('meta'), parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.to('meta')
    with torch.no_grad():
        return copy.deepcopy(model, memo)
