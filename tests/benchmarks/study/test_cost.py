import pytest

from benchmarks.kit.ledger import Ledger
from benchmarks.study import cost
from benchmarks.study.cost import Cost, Setting
from hiera_mm.errors import UserError


@pytest.mark.parametrize('power', [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_found(power):
    costs = [Cost('x', side, 3.0 * (side * side) ** power, 0.0, 1) for side in (512, 640, 2048)]
    assert cost.exponent(costs, lambda c: c.seconds) == pytest.approx(power)


@pytest.mark.parametrize('train', [False, True])
def test_everything_is_measured_once_and_written(tmp_path, monkeypatch, train):
    small = Setting(sides=(64, 448), repeats=1, threads=1, train=train)
    monkeypatch.setattr(cost, 'LAYOUTS', {'windows alone': cost.LAYOUTS['windows alone']})
    file = tmp_path / 'costs.jsonl'
    said = []
    costs = cost.measure_costs(small, Ledger(file, {}), lambda *what: said.append(what))
    assert [(c.layout, c.side) for c in costs] == [(n, s) for n in cost.LAYOUTS for s in (64, 448)]
    assert all(c.seconds > 0 and c.spread == 0 for c in costs)
    assert 0 < costs[0].memory < costs[1].memory / 2
    assert [done for _, done, _ in said] == [1, 2]
    # Nothing is left to measure: a second run finds the same.
    again = cost.measure_costs(small, Ledger(file, {}), lambda *_: pytest.fail('measured again'))
    assert again == costs
    cost.write_costs(costs, tmp_path / 'costs.csv')
    assert len((tmp_path / 'costs.csv').read_text().splitlines()) == 3
    cost.draw_costs(costs, 'title', tmp_path / 'costs.png')
    assert (tmp_path / 'costs.png').stat().st_size > 10_000


def test_the_table():
    costs = [
        Cost(name, side, side * side / 2**18, 0.0, 2**30)
        for name in cost.LAYOUTS
        for side in (512, 1024)
    ]
    lines = cost.cost_table(costs).splitlines()
    assert lines[0] == '| layout | | 512 | 1024 | exponent |'
    assert lines[2] == '| windows alone | s | 1.00 | 4.00 | 1.00 |'
    assert lines[3] == '|  | GiB | 1.00 | 1.00 | 0.00 |'
    assert len(lines) == 2 + 2 * len(cost.LAYOUTS)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(sides=(16, 512)), 'at least 32 pixels, got 16'),
        (dict(sides=(512, 512)), 'two different sides'),
        (dict(repeats=0), 'at least 1'),
        (dict(device='gpu'), "no device 'gpu'; use cpu or cuda"),
        (dict(device='meta'), 'not on meta'),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(UserError, match=message):
        Setting(**options)
