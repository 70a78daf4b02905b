"""The study of pretraining where labels are few."""

from argparse import Namespace
from pathlib import Path

import pytest
from mmengine.config import Config

from benchmarks.kit.ledger import Ledger
from benchmarks.studies import mae
from benchmarks.studies.mae import STARTS, TASKS, Job
from demo.shapes import make_shapes
from hiera_mm.errors import UserError

SETTING = Namespace(
    data=['shapes'], seeds=[0, 1], rates=[1.0, 0.5], labelled=3, unlabelled=7, validation=1,
    pretrain_iters=4, train_iters=4,
)  # fmt: skip


def test_the_jobs():
    wanted = mae.jobs(SETTING)
    assert len(wanted) == len({job.name for job in wanted}) == 2 * 2 * 2 * 2
    assert {job.task for job in wanted} == {'detector', 'segmenter'}


@pytest.fixture
def root(tmp_path):
    return make_shapes(tmp_path / 'data', num_train=7, num_val=1).root


@pytest.mark.parametrize('task', TASKS)
def test_the_start_is_the_only_difference(task, root):
    made = {
        start: mae.changes_for(Job('shapes', task, 0.5, 1, start), root, SETTING, Path('w.pth'))
        for start in STARTS
    }
    start = made['MAE'].pop('model.backbone.init_cfg')
    assert start == {'type': 'Pretrained', 'checkpoint': 'w.pth'}
    assert made['MAE'] == made['scratch']
    config = Config.fromfile(TASKS[task].config)
    rate = config.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult
    config.merge_from_dict(made['MAE'])
    assert config.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult == rate / 2
    assert config.train_dataloader.dataset.indices == [0, 2, 4]
    assert config.randomness.seed == 1
    assert [step.end for step in config.param_scheduler] == [2, 4]


def test_the_cells_have_their_own_files_and_classes(tmp_path):
    (tmp_path / 'train').mkdir()
    job = Job('bccd', 'detector', 1.0, 0, 'scratch')
    changes = mae.changes_for(job, tmp_path, SETTING, Path('w.pth'))
    config = Config.fromfile(TASKS['detector'].config)
    config.merge_from_dict(changes)
    assert config.val_evaluator.ann_file == str(tmp_path / 'annotations' / 'val.json')
    assert config.model.roi_head.bbox_head.num_classes == 3
    for loader in (config.train_dataloader, config.val_dataloader):
        assert len(loader.dataset.metainfo.classes) == 3


def test_data_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match='only shapes, bccd'):
        mae.check(Namespace(data=['coco']))
    with pytest.raises(UserError, match='--bccd'):
        mae.check(Namespace(data=['bccd'], bccd=tmp_path))


def test_the_table_and_the_picture(tmp_path):
    scores = {job: 10.0 * (1 + job.seed) + (job.start == 'MAE') for job in mae.jobs(SETTING)}
    head, _, first, second, *others = mae.scores_table(scores).splitlines()
    assert len(others) == 2 * 4 - 2
    assert 'seed 0 | seed 1 | mean' in head
    assert first.split('|')[4:-1] == [' scratch ', '   10.0 ', '   20.0 ', ' 15.0 ']
    assert second.split('|')[4:-1] == [' MAE     ', '   11.0 ', '   21.0 ', ' 16.0 ']
    mae.draw_scores(scores, tmp_path / 'scores.png')
    assert (tmp_path / 'scores.png').stat().st_size > 10_000


def test_a_study_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    done = []

    def pretend(work, *args):
        done.append(args[0])
        if work is mae.pretrain_once:
            folder = args[-1]
            folder.mkdir(parents=True)
            (folder / 'iter_4.pth').touch()
            return {'loss': 0.5, 'seconds': 1.0}
        if len(done) == 4:
            raise KeyboardInterrupt
        return 12.0

    monkeypatch.setattr(mae, 'in_new_process', pretend)
    setting = Namespace(**vars(SETTING), work_dir=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        mae.run_study(setting, Ledger(tmp_path / 'scores.jsonl', {}), print)
    scores = mae.run_study(setting, Ledger(tmp_path / 'scores.jsonl', {}), print)
    wanted = mae.jobs(SETTING)
    assert done == ['shapes', *wanted[:3], *wanted[2:]]
    assert scores == dict.fromkeys(wanted, 12.0)


@pytest.mark.slow
def test_the_study_from_end_to_end(run_script, tmp_path):
    small = ('--unlabelled', 8, '--labelled', 4, '--validation', 2, '--pretrain-iters', 2,
             '--train-iters', 2, '--seeds', 0, '--work-dir', tmp_path)  # fmt: skip
    done = run_script('mae', *small)
    assert done.returncode == 0, done.stderr
    assert '(4/4) shapes-segmenter-rate1-seed0-MAE: ' in done.stderr
    assert (tmp_path / 'scores.csv').exists()
