import pytest
import torch

from benchmarks.kit import ceiling
from benchmarks.kit.rounds import Times, measure_rounds


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_products_are_of_the_dtype(monkeypatch, dtype):
    monkeypatch.setitem(ceiling.SIDES, 'cpu', (16, 48))
    works = ceiling.products('cpu', dtype)
    assert [(work().dtype, tuple(work().shape)) for work in works.values()] == [
        (dtype, (16, 16)), (dtype, (48, 48)),
    ]  # fmt: skip
    assert all(work().isfinite().all() and work().std() > 1 for work in works.values())
    assert ceiling.ceiling(measure_rounds(works, 2), 'cpu') > 0


def test_the_ceiling_is_the_fastest_product_by_medians(monkeypatch):
    monkeypatch.setitem(ceiling.SIDES, 'cpu', (100, 200))
    times = {
        'a network': Times((1e-9,)),
        'product of 100x100': Times((2.0, 3.0)),
        'product of 200x200': Times((5.0, 1.0, 6.0)),
    }
    assert ceiling.ceiling(times, 'cpu') == 2 * 200**3 / 5.0
