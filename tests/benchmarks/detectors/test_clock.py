"""Times of parts: whatever a model calls is counted for the part that it belongs to."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from benchmarks.detectors import clock as clocks
from benchmarks.detectors.clock import PartClock, divided
from hiera_mm.cost.parts import REST


@pytest.fixture
def hands(monkeypatch):
    """A clock that is moved by hand: add to its only entry."""
    now = [100.0]
    monkeypatch.setattr(clocks.time, 'perf_counter', lambda: now[0])
    return now


class Sleeper(nn.Module):
    """Takes some seconds in each of its methods."""

    def __init__(self, hands: list[float], seconds: float, inner: nn.Module | None = None):
        super().__init__()
        self.hands, self.seconds = hands, seconds
        if inner is not None:
            self.inner = inner

    def forward(self):
        self.hands[0] += self.seconds
        if hasattr(self, 'inner'):
            self.inner()

    def predict(self):
        self.hands[0] += 10 * self.seconds
        self.forward()  # past the hooks of torch

    def predict_bbox(self):
        self.inner()

    def predict_mask(self):
        self.hands[0] += 3
        self.inner.predict()


class Model(nn.Module):
    def __init__(self, hands):
        super().__init__()
        self.hands = hands
        self.backbone = Sleeper(hands, 1)
        self.bbox_head = nn.ModuleList([Sleeper(hands, 2, Sleeper(hands, 4))])
        self.roi_head = Sleeper(hands, 0.5, Sleeper(hands, 5))

    def forward(self):
        self.hands[0] += 7
        self.backbone()
        self.bbox_head[0].predict()
        self.hands[0] += 8
        self.bbox_head[0].inner()  # a module inside a head
        self.roi_head.predict_bbox()
        self.roi_head.predict_mask()
        self.postprocess_result()

    def postprocess_result(self):
        self.hands[0] += 9


def test_every_second_is_counted_for_its_part(hands):
    model, clock = Model(hands), PartClock()
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    with divided(model, clock):
        first = clock.time(lambda divide: model())
        again = clock.time(lambda divide: model())
    assert first == again == {
        'backbone': 1,
        'bbox_head': 20 + 2 + 4 + 4,
        'roi_head.bbox': 5,
        'roi_head.mask': 3 + 50 + 5,
        'postprocessing': 9,
        REST: 15,
    }  # fmt: skip
    assert list(first)[-1] == REST
    model()  # no longer counted
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before


def test_parts_that_the_work_names_itself(hands):
    def work(divide):
        with divide('outer'):
            hands[0] += 1
            with divide('inner'):
                hands[0] += 2
            hands[0] += 4
        hands[0] += 8

    assert PartClock().time(work) == {'outer': 5, 'inner': 2, REST: 8}


def test_a_failure_does_not_stay_with_its_part(hands):
    model, clock = Model(hands), PartClock()

    def fail():
        hands[0] += 1
        raise KeyError

    model.backbone.forward = fail
    with divided(model, clock):
        with pytest.raises(KeyError):
            clock.time(lambda divide: model())
        model.backbone.forward = lambda: None
        assert clock.time(lambda divide: model())[REST] == 15
    assert model.backbone.forward is fail


def test_real_time_adds_up():
    model, clock = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), PartClock()
    with divided(model, clock):
        start = time.perf_counter()
        parts = clock.time(lambda divide: model(torch.zeros(8, 64)))
        whole = time.perf_counter() - start
    assert list(parts) == ['0', '1', REST]
    assert 0 < sum(parts.values()) <= whole


def test_a_gpu_is_waited_for_at_the_ends_of_parts(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, 'synchronize', waited.append)

    def work(divide):
        assert len(waited) == 1
        with divide('a'):
            assert len(waited) == 2
            with divide('a'):
                assert len(waited) == 2
        assert len(waited) == 3

    PartClock('cuda').time(work)
    assert waited == [torch.device('cuda')] * 4
