from __future__ import annotations

import pytest
import torch
from torch import nn

from hiera_mm.backbone import Hiera
from hiera_mm.engine import ConfigError, train
from hiera_mm.engine.commands import compile_hiera
from hiera_mm.weights.reading import read_checkpoint


@pytest.fixture(autouse=True)
def clean():
    before = torch._dynamo.config.recompile_limit
    yield
    torch._dynamo.config.recompile_limit = before
    torch._dynamo.reset()


def compiled_by(monkeypatch, backend):
    """Let blocks be compiled by a backend that does not make machine code, which takes minutes."""
    compile_module = nn.Module.compile
    monkeypatch.setattr(
        nn.Module,
        'compile',
        lambda self, **options: compile_module(self, backend=backend, **options),
    )


def test_sizes_do_not_matter_nor_do_names_change(small_arch, monkeypatch):
    calls = []

    def backend(graph, _):
        calls.append(graph)
        return graph.forward

    compiled_by(monkeypatch, backend)
    model = nn.Sequential(Hiera(arch=small_arch)).train()
    sizes = [(64, 96), (96, 160), (100, 50), (224, 32)]
    images = [torch.rand(2, 3, *size) for size in sizes]
    expected = [model(image) for image in images]
    names = list(model.state_dict())
    compile_hiera(model)
    assert list(model.state_dict()) == names
    counts = []
    for image, features in zip(images, expected, strict=True):
        for ours, theirs in zip(model(image), features, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)
        counts.append(len(calls))
    assert counts[0] > 0
    assert counts[1] == counts[-1]  # other numbers of windows need nothing new


def test_a_model_without_hiera():
    with pytest.raises(ConfigError, match='this model has none'):
        compile_hiera(nn.Sequential(nn.Linear(1, 1)))


@pytest.mark.slow
def test_a_training_with_compiled_blocks(segmenter, tmp_path):
    options = segmenter.changed(train_cfg__max_iters=3, randomness__seed=1)
    for name, compiled in (('plain', False), ('compiled', True)):
        folder = str(tmp_path / name)
        train(segmenter.config, work_dir=folder, cfg_options=options, compile=compiled)
    plain, compiled = (
        read_checkpoint(tmp_path / name / 'iter_3.pth')['state_dict']
        for name in ('plain', 'compiled')
    )
    assert list(plain) == list(compiled)
    for name, tensor in plain.items():
        assert torch.allclose(compiled[name].float(), tensor.float(), atol=1e-3), name
