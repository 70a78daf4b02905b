from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from hiera_mm.engine import CheckpointError, ConfigError, DataError, train
from hiera_mm.engine import test as evaluate
from hiera_mm.engine.commands import TEST_NEEDS, TRAIN_NEEDS
from hiera_mm.network import HieraTrunk
from hiera_mm.weights.families import FAMILIES
from hiera_mm.weights.reading import read_checkpoint

TASKS = ['trained_detector', 'trained_segmenter']


@pytest.fixture(params=TASKS)
def task(request):
    """Each task, trained."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def other_weights(tmp_path) -> str:
    """A checkpoint of quite another model."""
    path = tmp_path / 'other.pth'
    torch.save({'state_dict': torch.nn.Linear(2, 2).state_dict(), 'meta': {}}, path)
    return str(path)


def test_training_leaves_checkpoint_and_complete_config(task):
    assert Path(task.checkpoint).is_file()
    dumped = Config.fromfile(task.work_dir / task.config.name)
    assert dumped.custom_imports['imports'] == ['hiera_mm']
    assert all(key in dumped for key in TRAIN_NEEDS + TEST_NEEDS)


def test_training_is_resumed(trained_detector):
    task = trained_detector
    longer = task.changed(
        train_cfg__max_iters=2, val_dataloader=None, val_evaluator=None, val_cfg=None
    )
    work_dir = str(task.work_dir)
    runner = train(task.config, work_dir=work_dir, cfg_options=longer, resume='auto')
    assert runner.iter == 2
    before, after = read_checkpoint(task.checkpoint), read_checkpoint(task.work_dir / 'iter_2.pth')
    assert after['meta']['iter'] == 2
    steps = [next(iter(c['optimizer']['state'].values()))['step'] for c in (before, after)]
    assert [int(step) for step in steps] == [1, 2]


class TestPretrainedBackbone:
    """Weights named by `--cfg-options model.backbone.init_cfg.checkpoint=...`."""

    def options(self, task, checkpoint, **changes):
        return task.changed(
            model__backbone__init_cfg__checkpoint=str(checkpoint),
            val_dataloader=None, val_evaluator=None, val_cfg=None, **changes,
        )  # fmt: skip

    def test_is_trained_from(self, trained_segmenter, tmp_path):
        arch = trained_segmenter.options['model.backbone.arch']
        trunk = HieraTrunk(arch, out_norm_eps=None)
        family = FAMILIES['transformers']
        state = {family.theirs(n, arch['depths']): v for n, v in trunk.state_dict().items()}
        torch.save(state, tmp_path / 'transformers.bin')
        frozen = self.options(
            trained_segmenter,
            tmp_path / 'transformers.bin',
            optim_wrapper__optimizer__lr=0.0,
            param_scheduler=None,
        )
        runner = train(trained_segmenter.config, work_dir=str(tmp_path), cfg_options=frozen)
        backbone = runner.model.backbone.state_dict()
        for name, value in trunk.state_dict().items():
            assert torch.equal(backbone[name], value), name
        logs = [path.read_text() for path in tmp_path.rglob('*.log')]
        assert any('family        transformers (HieraModel)' in text for text in logs)

    def test_is_checked_before_training(self, trained_segmenter, tmp_path):
        for checkpoint, message in [
            (tmp_path / 'missing.pth', r'missing\.pth does not exist'),
            ('sam2://tyni', "did you mean 'sam2://tiny'"),
        ]:
            with pytest.raises(CheckpointError, match=message):
                train(
                    trained_segmenter.config,
                    work_dir=str(tmp_path),
                    cfg_options=self.options(trained_segmenter, checkpoint),
                )

    def test_must_be_of_the_architecture(self, trained_segmenter, tmp_path):
        torch.save(HieraTrunk('tiny').state_dict(), tmp_path / 'tiny.pth')
        with pytest.raises(CheckpointError, match='this is tiny, and the config says'):
            train(
                trained_segmenter.config,
                work_dir=str(tmp_path),
                cfg_options=self.options(trained_segmenter, tmp_path / 'tiny.pth'),
            )


def test_an_unknown_architecture_is_an_error_of_the_config(trained_segmenter, tmp_path):
    options = dict(trained_segmenter.options)
    del options['model.backbone.arch']
    options['model.backbone'] = dict(_delete_=True, type='Hiera', arch='bsae')
    with pytest.raises(ConfigError, match="no Hiera called 'bsae'; did you mean 'base'"):
        train(trained_segmenter.config, work_dir=str(tmp_path), cfg_options=options)


def test_detector_is_tested(trained_detector, tmp_path):
    out = tmp_path / 'new' / 'predictions.pkl'
    scores = evaluate(
        trained_detector.config,
        trained_detector.checkpoint,
        work_dir=str(tmp_path),
        out=str(out),
        show_dir=str(tmp_path / 'drawings'),
        cfg_options=trained_detector.options,
    )
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(scores)
    with out.open('rb') as file:
        assert len(pickle.load(file)) == 2
    assert len(list((tmp_path / 'drawings').glob('*.jpg'))) == 2


def test_segmenter_is_tested(trained_segmenter, tmp_path):
    scores = evaluate(
        trained_segmenter.config,
        trained_segmenter.checkpoint,
        work_dir=str(tmp_path),
        out=str(tmp_path / 'maps'),
        show_dir=str(tmp_path / 'drawings'),
        cfg_options=trained_segmenter.changed(visualizer__name='not shared with other tests'),
    )
    assert 0 <= scores['mIoU'] <= 100
    assert len(list((tmp_path / 'maps').glob('*.png'))) == 2
    assert len(list((tmp_path / 'drawings').rglob('*.png'))) == 2


class TestRefusals:
    """Each is found before the first iteration, and before the first image."""

    def test_malicious_start(self, detector, trap, tmp_path):
        path, marker = trap()
        options = detector.changed(load_from=path)
        with pytest.raises(CheckpointError, match='nothing in it was run'):
            train(detector.config, work_dir=str(tmp_path / 'w'), cfg_options=options)
        assert not marker.exists()

    def test_malicious_resume(self, detector, trap, tmp_path):
        path, marker = trap()
        work_dir = tmp_path / 'w'
        work_dir.mkdir()
        (work_dir / 'last_checkpoint').write_text(path)
        for resume in (path, 'auto'):
            with pytest.raises(CheckpointError, match='nothing in it was run'):
                train(
                    detector.config,
                    work_dir=str(work_dir),
                    cfg_options=detector.options,
                    resume=resume,
                )
        assert not marker.exists()

    def test_malicious_test(self, segmenter, trap, tmp_path):
        path, marker = trap()
        with pytest.raises(CheckpointError, match='nothing in it was run'):
            evaluate(segmenter.config, path, work_dir=str(tmp_path), cfg_options=segmenter.options)
        assert not marker.exists()

    def test_malicious_backbone(self, segmenter, trap, tmp_path):
        path, marker = trap({'patch_embed.proj.weight': torch.ones(1)})
        options = segmenter.changed(
            model__backbone__init_cfg=dict(type='Pretrained', checkpoint=path)
        )
        with pytest.raises(CheckpointError, match='nothing in it was run'):
            train(segmenter.config, work_dir=str(tmp_path / 'w'), cfg_options=options)
        assert not marker.exists()

    def test_other_model(self, segmenter, other_weights, tmp_path):
        options = segmenter.changed(load_from=other_weights)
        with pytest.raises(CheckpointError, match=r'named by load_from.*nothing was loaded'):
            train(segmenter.config, work_dir=str(tmp_path), cfg_options=options)
        with pytest.raises(CheckpointError, match=r'nothing was loaded.*\n.*missing in the file'):
            evaluate(segmenter.config, other_weights, cfg_options=segmenter.options)

    def test_weights_without_training_state_cannot_be_resumed(self, trained_segmenter, tmp_path):
        weights = read_checkpoint(trained_segmenter.checkpoint)['state_dict']
        torch.save({'state_dict': weights}, tmp_path / 'weights.pth')
        with pytest.raises(CheckpointError, match='no meta and no optimizer and no message_hub'):
            train(
                trained_segmenter.config,
                work_dir=str(tmp_path / 'w'),
                cfg_options=trained_segmenter.options,
                resume=str(tmp_path / 'weights.pth'),
            )

    def test_missing_data(self, detector, tmp_path):
        options = detector.changed(train_dataloader__dataset__data_root=str(tmp_path / 'none'))
        with pytest.raises(DataError, match='Looked for'):
            train(detector.config, work_dir=str(tmp_path), cfg_options=options)

    def test_heads_for_other_classes(self, detector, tmp_path):
        options = detector.changed(
            model__roi_head__bbox_head__num_classes=2, model__roi_head__mask_head__num_classes=2
        )
        with pytest.raises(ConfigError, match=r'model\.roi_head\.bbox_head\.num_classes is 2'):
            train(detector.config, work_dir=str(tmp_path), cfg_options=options)

    def test_predictions_under_another_name(self, detector, tmp_path):
        with pytest.raises(ConfigError, match=r'\.pkl'):
            evaluate(detector.config, 'x.pth', cfg_options=detector.options, out='predictions.json')

    def test_masks_have_no_tta(self, trained_detector, tmp_path):
        with pytest.raises(ConfigError, match='merges boxes and no masks'):
            evaluate(
                trained_detector.config,
                trained_detector.checkpoint,
                work_dir=str(tmp_path),
                cfg_options=trained_detector.options,
                tta=True,
            )

    def test_work_dir_that_cannot_be_made(self, segmenter, tmp_path):
        (tmp_path / 'file').touch()
        with pytest.raises(ConfigError, match='Cannot write to the folder'):
            train(
                segmenter.config,
                work_dir=str(tmp_path / 'file' / 'w'),
                cfg_options=segmenter.options,
            )


def test_segmenter_with_tta(trained_segmenter, tmp_path):
    flips = [[dict(type='RandomFlip', prob=prob)] for prob in (0.0, 1.0)]
    augment = dict(
        type='TestTimeAug',
        transforms=[
            [step for flip in flips for step in flip],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    )
    options = trained_segmenter.changed(
        tta_model=dict(type='SegTTAModel'),
        tta_pipeline=[dict(type='LoadImageFromFile'), augment],
    )
    scores = evaluate(
        trained_segmenter.config,
        trained_segmenter.checkpoint,
        work_dir=str(tmp_path),
        cfg_options=options,
        tta=True,
    )
    assert 0 <= scores['mIoU'] <= 100


def test_start_from_a_model_with_other_classes(trained_segmenter, tmp_path, logged, monkeypatch):
    monkeypatch.setattr(Runner, 'train', lambda self: None)
    weights = read_checkpoint(trained_segmenter.checkpoint)
    for name in ('decode_head.conv_seg.weight', 'decode_head.conv_seg.bias'):
        weights['state_dict'][name] = weights['state_dict'][name][:3]
    torch.save(weights, tmp_path / 'three-classes.pth')
    options = trained_segmenter.changed(load_from=str(tmp_path / 'three-classes.pth'))
    train(trained_segmenter.config, work_dir=str(tmp_path / 'w'), cfg_options=options)
    assert 'decode_head.conv_seg.bias (file [3], model [8])' in logged[0]
