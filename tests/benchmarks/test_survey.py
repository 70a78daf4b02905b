import csv
import json
import re
import threading

import pytest

from benchmarks.survey import (
    REFUSED,
    SWAPPED,
    UNUSABLE,
    examine,
    reasons,
    run_survey,
    table,
)
from hiera_mm.errors import ConfigError
from hiera_mm.swap import survey
from hiera_mm.swap.find import resolve
from hiera_mm.swap.workbench import Workbench

from .conftest import SLIM

DETECTOR = f'_base_ = {str(resolve("mmdet/faster_rcnn/faster-rcnn_r50_fpn_1x_coco"))!r}\n'
DEATH = """
import os
from mmengine.registry import MODELS

@MODELS.register_module()
def Death():
    os._exit(3)
"""


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """A folder of configs of every fate, in two families."""
    folder = tmp_path / 'configs'
    texts = {
        'good/plain': DETECTOR,
        'good/deep': DETECTOR + 'model = dict(backbone=dict(depth=101))',
        'bad/own': DETECTOR
        + "model = dict(backbone=dict(_delete_=True, type='Hiera'),"
        + 'neck=dict(in_channels=[96, 192, 384, 768]))',
        'bad/unknown': DETECTOR + "model = dict(backbone=dict(type='NoSuchNet'))",
        'bad/broken': 'model = dict(',
        'bad/deadly': DETECTOR
        + "custom_imports = dict(imports=['death'])\n"
        + "model = dict(backbone=dict(_delete_=True, type='Death'))",
        'bad/good_after_death': DETECTOR,
    }
    for name, text in texts.items():
        file = folder / f'{name}.py'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / 'modules').mkdir()
    (tmp_path / 'modules' / 'death.py').write_text(DEATH)
    monkeypatch.syspath_prepend(tmp_path / 'modules')
    return folder


FATES = {
    'bad/broken': UNUSABLE,
    'bad/deadly': REFUSED,
    'bad/good_after_death': SWAPPED,
    'bad/own': REFUSED,
    'bad/unknown': UNUSABLE,
    'good/deep': SWAPPED,
    'good/plain': SWAPPED,
}


def test_every_config_has_its_fate_and_a_survey_goes_on(configs, tmp_path, monkeypatch):
    work_dir = tmp_path / 'work'
    report = run_survey(configs, 'tiny', work_dir, workers=2)
    lines = (work_dir / 'results.jsonl').read_text().splitlines()
    found = {record['name']: record['result'] for record in map(json.loads, lines[1:])}
    assert {name: result['status'] for name, result in found.items()} == FATES
    assert found['bad/deadly']['reason'] == 'the process died (exit code 3)'
    assert found['bad/own']['reason'].endswith('it has Hiera already')
    assert 'NoSuchNet' in found['bad/unknown']['reason']
    assert report == (work_dir / 'table.md').read_text()
    assert '| bad | 5 | 1 |  | 2 | 2 |' in report
    assert '| good | 2 | 2 |  |  |  |' in report
    assert re.match(r'Surveyed with Hiera \(tiny\) on torch \d', report)
    assert '3 of 5 that work here take Hiera: 60.0%.' in report
    with (work_dir / 'configs.csv').open() as stream:
        rows = {row['config']: row for row in csv.DictReader(stream)}
    assert {name: row['status'] for name, row in rows.items()} == FATES
    assert rows['good/plain']['backbone'] == 'ResNet'
    # Interrupted: what is known is not done again.
    (work_dir / 'results.jsonl').write_text('\n'.join(lines[:-1]) + '\n')
    asked = []
    lead = survey._lead
    monkeypatch.setattr(
        survey, '_lead', lambda todo, *rest: (asked.append(todo.qsize()), lead(todo, *rest))
    )
    assert run_survey(configs, 'tiny', work_dir, workers=2) == report
    assert asked == [1]


def test_a_config_that_takes_for_ever_is_given_up(configs, tmp_path, monkeypatch):
    monkeypatch.setattr(survey, 'LIMIT', 0.01)
    for file in configs.glob('bad/*'):
        file.unlink()
    (configs / 'good' / 'deep.py').unlink()
    report = run_survey(configs, 'tiny', tmp_path / 'work', workers=1)
    assert 'it takes more than 0.01 seconds' in report
    assert threading.active_count() < 10


@pytest.mark.parametrize('made', [False, True])
def test_no_configs_is_an_error(tmp_path, made):
    folder = tmp_path / 'nothing'
    if made:
        folder.mkdir()
    with pytest.raises(ConfigError, match=r'There (is no folder|are no configs)'):
        run_survey(folder, 'tiny', tmp_path / 'work', workers=1)


def test_a_written_config_that_reads_otherwise_is_no_success(configs, monkeypatch):
    from hiera_mm.swap.swapping import Swapped

    monkeypatch.setattr(Swapped, 'text', lambda *_: 'x = 1')
    result = examine('good/plain', configs / 'good' / 'plain.py', SLIM, Workbench())
    assert result['status'] == REFUSED
    assert 'reads otherwise' in result['reason']


def test_the_table_counts_by_family_and_gives_each_reason_once():
    results = {
        'a/one': dict(status=SWAPPED, keeps_channels=True),
        'a/two': dict(status=REFUSED, reason='because | of\nthis'),
        'b/c/three': dict(status=REFUSED, reason='because | of\nthat'),
        'four': dict(status=UNUSABLE, reason='x' * 300),
        'a/five': dict(status=SWAPPED, reason='as before'),
        'six': dict(status=UNUSABLE, reason='no   "/my/site-packages/mmdet/a.py"'),
    }
    text = table(results)
    assert '| a | 3 | 2 | 1 | 1 |  |' in text
    assert '| b/c | 1 |  |  | 1 |  |' in text
    assert '| . | 2 |  |  |  | 2 |' in text
    assert '| **all** | 6 | 2 | 1 | 2 | 2 |' in text
    assert '2 of 4 that work here take Hiera: 50.0%.' in text
    text = reasons(results)
    assert '| 2 | because / of | a/two |' in text
    assert '| 1 | as before | a/five |' in text
    assert '| 1 | no "mmdet/a.py" | six |' in text
    assert re.search(r'\| 1 \| x{197}\.\.\. \| four \|', text)
