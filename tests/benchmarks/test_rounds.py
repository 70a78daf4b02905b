import time

import pytest

from benchmarks.kit.rounds import Times, measure_rounds


def test_everyone_works_once_in_a_round_and_not_always_in_the_same_order():
    done, reported = [], []
    works = {name: lambda name=name: done.append(name) for name in 'abc'}
    times = measure_rounds(works, 20, warmups=2, report=lambda *args: reported.append(args))
    assert done[:6] == ['a', 'a', 'b', 'b', 'c', 'c']
    rounds = [tuple(done[start : start + 3]) for start in range(6, len(done), 3)]
    assert len(rounds) == 20
    assert all(sorted(order) == ['a', 'b', 'c'] for order in rounds)
    assert len(set(rounds)) > 3
    assert list(times) == ['a', 'b', 'c']
    assert all(len(one.seconds) == 20 for one in times.values())
    assert [name for _, name, _ in reported] == done[6:]
    assert [number for number, _, _ in reported] == [n for n in range(1, 21) for _ in 'abc']
    assert {seconds for _, name, seconds in reported if name == 'b'} == set(times['b'].seconds)


def test_times_are_of_the_work_alone():
    times = measure_rounds({'sleeps': lambda: time.sleep(0.02), 'does not': lambda: None}, 3)
    assert min(times['sleeps'].seconds) >= 0.02
    assert max(times['does not'].seconds) < 0.02


def test_without_a_round_there_is_nothing_to_tell():
    with pytest.raises(ValueError, match='rounds must be at least 1'):
        measure_rounds({}, 0)


def test_median_and_spread():
    assert Times((3.0, 1.0, 2.0, 100.0, 2.0)).median == 2.0
    assert Times((3.0, 1.0, 2.0, 100.0, 2.0)).spread == pytest.approx(0.5)
    assert Times((4.0,)).spread == 0.0
