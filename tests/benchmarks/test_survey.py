"""Which configs can take Hiera: every one has its fate, and a survey goes on."""

import csv
import json
import re

import pytest

from benchmarks.studies import survey
from benchmarks.studies.survey import REFUSED, SWAPPED, UNUSABLE, examine, run_survey
from hiera_mm.network import VARIANTS, Variant
from hiera_mm.swap.ways import call_directly
from hiera_mm.trial.configs import resolve

DETECTOR = f'_base_ = {str(resolve("mmdet/faster_rcnn/faster-rcnn_r50_fpn_1x_coco"))!r}\n'
CONFIGS = {
    'good/plain': (SWAPPED, DETECTOR),
    'bad/broken': (UNUSABLE, 'model = dict('),
    'bad/test_only': (UNUSABLE, DETECTOR + 'train_dataloader = None'),
    'bad/own': (
        REFUSED,
        DETECTOR
        + "model = dict(backbone=dict(_delete_=True, type='Hiera'),"
        + 'neck=dict(in_channels=[96, 192, 384, 768]))',
    ),
}
FATAL = {
    'good/deep': (SWAPPED, DETECTOR + 'model = dict(backbone=dict(depth=101))'),
    'bad/unknown': (UNUSABLE, DETECTOR + "model = dict(backbone=dict(type='NoSuchNet'))"),
    'bad/deadly': (
        REFUSED,
        DETECTOR
        + "custom_imports = dict(imports=['death'])\n"
        + "model = dict(backbone=dict(_delete_=True, type='Death'))",
    ),
    'bad/good_after_death': (SWAPPED, DETECTOR),
}
DEATH = """
import os
from mmengine.registry import MODELS

@MODELS.register_module()
def Death():
    os._exit(3)
"""


def write_configs(folder, configs):
    for name, (_, text) in configs.items():
        file = folder / f'{name}.py'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def fates(work_dir):
    with (work_dir / 'configs.csv').open() as stream:
        return {row['config']: row['status'] for row in csv.DictReader(stream)}


def test_the_script_tells_the_fate_of_each_config(run_script, tmp_path, monkeypatch):
    monkeypatch.setitem(VARIANTS, 'slim', Variant(16, 1, (1, 1, 1, 1)))

    def lead_here(todo, files, arch, keep):
        for name in survey._names(todo):
            keep(name, examine(name, files[name], arch, call_directly))

    monkeypatch.setattr(survey, '_lead', lead_here)
    folder, work_dir = write_configs(tmp_path / 'configs', CONFIGS), tmp_path / 'work'
    command = ('survey', folder, '--arch', 'slim', '--workers', 1, '--work-dir', work_dir)
    done = run_script(*command)
    assert done.returncode == 0, done.stderr
    assert fates(work_dir) == {name: fate for name, (fate, _) in CONFIGS.items()}
    assert (work_dir / 'table.md').read_text() in done.stdout
    assert re.search(r'Surveyed with Hiera \(slim\) on torch \d', done.stdout)
    assert '1 of 2 that work here take Hiera: 50.0%.' in done.stdout
    with (work_dir / 'reasons.csv').open() as stream:
        reasons = list(csv.DictReader(stream))
    assert [row['fate'] for row in reasons] == ['refused', *['the original fails here'] * 2]
    assert reasons[0]['reason'].endswith('it has Hiera already')
    # What is known is not done again.
    monkeypatch.setattr(survey, '_lead', lambda *_: pytest.fail('examined again'))
    again = run_script(*command)
    assert again.stdout.strip() == (work_dir / 'table.md').read_text().strip()


@pytest.mark.slow
def test_a_process_that_dies_is_one_config_lost_and_a_survey_goes_on(tmp_path, monkeypatch):
    (tmp_path / 'modules').mkdir()
    (tmp_path / 'modules' / 'death.py').write_text(DEATH)
    monkeypatch.syspath_prepend(tmp_path / 'modules')
    configs = CONFIGS | FATAL
    folder, work_dir = write_configs(tmp_path / 'configs', configs), tmp_path / 'work'
    report = run_survey(folder, 'tiny', work_dir, workers=2)
    assert fates(work_dir) == {name: fate for name, (fate, _) in configs.items()}
    lines = (work_dir / 'results.jsonl').read_text().splitlines()
    found = {record['name']: record['result'] for record in map(json.loads, lines[1:])}
    assert found['bad/deadly']['reason'] == 'the process died (exit code 3)'
    assert 'NoSuchNet' in found['bad/unknown']['reason']
    assert found['good/plain']['backbone'] == 'ResNet'
    # Interrupted: only what is missing is done.
    (work_dir / 'results.jsonl').write_text('\n'.join(lines[:-1]) + '\n')
    asked = []
    lead = survey._lead
    monkeypatch.setattr(
        survey, '_lead', lambda todo, *rest: (asked.append(todo.qsize()), lead(todo, *rest))
    )
    assert run_survey(folder, 'tiny', work_dir, workers=2) == report
    assert asked == [1]


@pytest.mark.slow
def test_a_config_that_takes_for_ever_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, 'LIMIT', 0)
    folder = write_configs(tmp_path / 'configs', {'a/plain': (SWAPPED, DETECTOR)})
    report = run_survey(folder, 'tiny', tmp_path / 'work', workers=1)
    assert 'it takes more than 0 seconds' in report


@pytest.mark.parametrize('made', [False, True])
def test_no_configs_is_an_error(run_script, tmp_path, made):
    folder = tmp_path / 'nothing'
    if made:
        folder.mkdir()
    done = run_script('survey', folder, '--work-dir', tmp_path / 'work')
    assert done.returncode == 2
    assert ('There are no configs' if made else 'There is no folder') in done.stderr
    assert not (tmp_path / 'work').exists()


@pytest.mark.slow
def test_a_written_config_that_reads_otherwise_is_no_success(tmp_path, monkeypatch):
    from hiera_mm.swap.swapping import Swapped

    monkeypatch.setitem(VARIANTS, 'slim', Variant(16, 1, (1, 1, 1, 1)))
    monkeypatch.setattr(Swapped, 'text', lambda *_, **__: 'x = 1')
    folder = write_configs(tmp_path, {'a/plain': (SWAPPED, DETECTOR)})
    result = examine('a/plain', folder / 'a' / 'plain.py', 'slim', call_directly)
    assert result['status'] == REFUSED
    assert 'reads otherwise' in result['reason']


def test_tables_count_by_family_and_give_each_reason_once():
    results = {
        'a/one': dict(status=SWAPPED, keeps_channels=True),
        'a/two': dict(status=REFUSED, reason='because | of\nthis'),
        'b/c/three': dict(status=REFUSED, reason='because | of\nthat'),
        'four': dict(status=UNUSABLE, reason='x' * 300),
        'a/five': dict(status=SWAPPED, reason='as before'),
        'six': dict(status=UNUSABLE, reason='no   "/my/site-packages/mmdet/a.py"'),
    }
    assert [tuple(row.values()) for row in survey.family_rows(results)] == [
        ('a', 3, 2, 1, 1, 0),
        ('b/c', 1, 0, 0, 1, 0),
        ('.', 2, 0, 0, 0, 2),
        ('all', 6, 2, 1, 2, 2),
    ]
    assert survey.share(results) == '2 of 4 that work here take Hiera: 50.0%.'
    assert [tuple(row.values()) for row in survey.reason_rows(results)] == [
        (2, 'refused', 'because / of', 'a/two'),
        (1, 'swapped, and predicting no more than the original', 'as before', 'a/five'),
        (1, 'the original fails here', 'x' * 197 + '...', 'four'),
        (1, 'the original fails here', 'no "mmdet/a.py"', 'six'),
    ]
