import pytest

from benchmarks.kit.ledger import Ledger
from hiera_mm.errors import UserError

SETTING = dict(seeds=3, scales=(1.0, 2.0))


def test_it_remembers(tmp_path):
    file = tmp_path / 'new' / 'results.jsonl'
    first = Ledger(file, SETTING)
    first.add('one', 1.5)
    first.add('two', dict(side=64))
    assert Ledger(file, SETTING).results == first.results == {'one': 1.5, 'two': {'side': 64}}


def test_half_a_line_is_forgotten(tmp_path):
    file = tmp_path / 'results.jsonl'
    Ledger(file, SETTING).add('one', 1)
    with file.open('a') as out:
        out.write('{"name": "two", "res')
    again = Ledger(file, SETTING)
    assert again.results == {'one': 1}
    again.add('two', 2)
    assert Ledger(file, SETTING).results == {'one': 1, 'two': 2}


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


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'taken').write_text('a file')
    with pytest.raises(UserError, match='Cannot write to the folder'):
        Ledger(tmp_path / 'taken' / 'results.jsonl', SETTING)
