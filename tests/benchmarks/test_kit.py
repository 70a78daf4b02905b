"""What all benchmarks share: rounds, the ceiling, memory, the ledger, tables, options."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.kit import memory, options, timing
from benchmarks.kit.ledger import Ledger
from benchmarks.kit.tables import write_csv
from benchmarks.kit.timing import Times, measure_rounds
from hiera_mm.errors import UserError

ROOT = Path(__file__).parents[2]
SETTING = dict(seeds=3, scales=(1.0, 2.0))


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
    assert [name for _, name, _ in reported] == done[6:]
    assert [number for number, _, _ in reported] == [n for n in range(1, 21) for _ in 'abc']
    seconds = [seconds for _, name, seconds in reported if name == 'b']
    assert tuple(seconds) == times['b'].seconds


def test_times_are_of_the_work_alone_and_end_when_a_gpu_is_done(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(timing.time, 'perf_counter', lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    works = {'long': lambda: advance(5), 'short': lambda: advance(1)}
    times = measure_rounds(works, 3, report=lambda *_: advance(7))
    assert (times['long'].seconds, times['short'].seconds) == ((5, 5, 5), (1, 1, 1))
    # A GPU works on when a call has returned: 2 seconds before anything is timed, 2 after a work.
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda device: advance(2))
    times = measure_rounds(works, 1, device='cuda')
    assert (times['long'].seconds, times['short'].seconds) == ((7,), (3,))


def test_median_and_spread():
    assert Times((3.0, 1.0, 2.0, 100.0, 2.0)).median == 2.0
    assert Times((3.0, 1.0, 2.0, 100.0, 2.0)).spread == pytest.approx(0.5)
    assert Times((4.0,)).spread == 0.0


def test_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), timing.on_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_products_are_of_the_dtype(monkeypatch, dtype):
    monkeypatch.setitem(timing.SIDES, 'cpu', (16, 48))
    works = timing.products('cpu', dtype)
    assert [(work().dtype, tuple(work().shape)) for work in works.values()] == [
        (dtype, (16, 16)), (dtype, (48, 48)),
    ]  # fmt: skip
    assert all(work().isfinite().all() and work().std() > 1 for work in works.values())
    assert timing.ceiling(measure_rounds(works, 2), 'cpu') > 0


def test_the_ceiling_is_the_fastest_product_by_medians(monkeypatch):
    monkeypatch.setitem(timing.SIDES, 'cpu', (100, 200))
    times = {
        'a network': Times((1e-9,)),
        'product of 100x100': Times((2.0, 3.0)),
        'product of 200x200': Times((5.0, 1.0, 6.0)),
    }
    assert timing.ceiling(times, 'cpu') == 2 * 200**3 / 5.0


MEMORY = """
import torch
from benchmarks.kit.memory import in_new_process, memory_of_pass

def measure():
    torch.ones(2**26).sum()  # an earlier peak
    image, kept = torch.ones(2**23), []
    return memory_of_pass(lambda: (image + 1).sum() if kept else kept.append(image + 1), 'cpu')

if __name__ == '__main__':
    print(in_new_process(measure))
"""


def test_memory_is_that_of_a_pass_in_a_new_process(tmp_path):
    (tmp_path / 'script.py').write_text(MEMORY)
    command, env = [sys.executable, tmp_path / 'script.py'], {'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert int(done.stdout) / memory.MIB == pytest.approx(32, abs=4)


def test_where_memory_cannot_be_measured(monkeypatch, tmp_path):
    memory.check_memory('cpu')
    monkeypatch.setattr(memory, 'CLEAR_PEAK', tmp_path / 'clear_refs')
    memory.check_memory('cuda')
    with pytest.raises(UserError, match='on Linux only'):
        memory.check_memory('cpu')


def test_the_ledger_remembers_and_forgets_half_a_line(tmp_path):
    file = tmp_path / 'new' / 'results.jsonl'
    first = Ledger(file, SETTING)
    first.add('one', 1.5)
    first.add('two', dict(side=64))
    with file.open('a') as out:
        out.write('{"name": "three", "res')
    again = Ledger(file, SETTING)
    assert again.results == first.results == {'one': 1.5, 'two': {'side': 64}}
    again.add('three', 3)
    assert Ledger(file, SETTING).results == again.results


def test_a_run_killed_at_its_very_beginning_begins_anew(tmp_path):
    file = tmp_path / 'results.jsonl'
    file.with_suffix('.new').write_text('{"sett')
    assert Ledger(file, SETTING).results == {}


def test_another_setting_is_refused_and_nothing_is_lost(tmp_path):
    file = tmp_path / 'results.jsonl'
    Ledger(file, SETTING).add('one', 1)
    before = file.read_bytes()
    with pytest.raises(UserError, match=r'another setting \(seeds changed\).*--fresh'):
        Ledger(file, dict(SETTING, seeds=4))
    assert file.read_bytes() == before
    assert Ledger(file, dict(SETTING, seeds=4), fresh=True).results == {}


@pytest.mark.parametrize('content', ['', 'notes\n', '[1]\n', '{"setting": {}}\n{"other": 1}\n'])
def test_a_file_of_somebody_else_is_left_alone(tmp_path, content):
    file = tmp_path / 'results.jsonl'
    file.write_text(content)
    with pytest.raises(UserError, match='not a file of results'):
        Ledger(file, SETTING)
    assert file.read_text() == content


def test_the_csv_has_the_columns_that_any_row_has(tmp_path):
    write_csv(tmp_path / 't.csv', [dict(a=1, b='x, y'), dict(b=None, c=2.5)])
    assert (tmp_path / 't.csv').read_text().splitlines() == ['a,b,c', '1,"x, y",', ',,2.5']


def test_options_that_cannot_be_are_refused(capsys):
    parser = argparse.ArgumentParser()
    options.add_rounds(parser, rounds=3, warmups=0)
    assert vars(parser.parse_args([])) == dict(rounds=3, warmups=0)
    with pytest.raises(SystemExit):
        parser.parse_args(['--rounds', '0'])
    assert 'argument --rounds: must be at least 1, got 0' in capsys.readouterr().err
    with pytest.raises(UserError, match="no arch 'tinny'; did you mean 'tiny'"):
        options.check_archs(['tiny', 'tinny'])
