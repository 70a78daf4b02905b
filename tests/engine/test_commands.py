"""Training and testing with the demo's configs, and what is refused before either begins."""

from __future__ import annotations

import pickle
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from hiera_mm.backbone import Hiera
from hiera_mm.engine import CheckpointError, ConfigError, DataError, predict, train
from hiera_mm.engine import test as evaluate
from hiera_mm.engine.commands import TEST_NEEDS, TRAIN_NEEDS, compile_hiera
from hiera_mm.network import VARIANTS, HieraTrunk, Variant
from hiera_mm.weights.families import FAMILIES
from hiera_mm.weights.reading import read_checkpoint


@pytest.mark.parametrize('name', ['trained_detector', 'trained_segmenter'])
def test_training_leaves_checkpoint_and_complete_config(name, request):
    task = request.getfixturevalue(name)
    assert Path(task.checkpoint).is_file()
    dumped = Config.fromfile(task.work_dir / task.config.name)
    assert dumped.custom_imports['imports'] == ['hiera_mm']
    assert all(key in dumped for key in TRAIN_NEEDS + TEST_NEEDS)


def test_options_reach_the_training(segmenter, tmp_path):
    """The average of the weights is saved and tested; losses are written for a tracker."""
    track = ['tensorboard'] if find_spec('tensorboard') else []
    options = segmenter.changed(
        train_cfg__max_iters=2,
        optim_wrapper__optimizer__lr=1.0,
        default_hooks__logger__interval=1,
    )
    train(segmenter.config, work_dir=str(tmp_path), ema=True, track=track, cfg_options=options)
    saved = read_checkpoint(tmp_path / 'iter_2.pth')
    name = 'decode_head.conv_seg.weight'
    # What is tested goes by the model's names, what is trained is kept beside it.
    trained = saved['ema_state_dict'][f'module.{name}']
    assert not torch.equal(saved['state_dict'][name], trained)
    for events in tmp_path.rglob('events.out.tfevents*'):
        assert b'decode.loss_ce' in events.read_bytes()
        track.remove('tensorboard')
    assert not track


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
        arch = dict(trained_segmenter.options['model.backbone.arch'], embed_dim=32)
        torch.save(HieraTrunk(arch).state_dict(), tmp_path / 'wide.pth')
        for checkpoint, message in [
            (tmp_path / 'missing.pth', r'missing\.pth does not exist'),
            ('sam2://tyni', "did you mean 'sam2://tiny'"),
            (tmp_path / 'wide.pth', 'embed_dim 32'),
        ]:
            options = self.options(trained_segmenter, checkpoint)
            with pytest.raises(CheckpointError, match=message):
                train(trained_segmenter.config, work_dir=str(tmp_path), cfg_options=options)


class TestArchAuto:
    """The architecture of the weights that `init_cfg` names is written into the saved config."""

    @pytest.fixture(scope='class')
    def small(self, segmenter):
        """Let the demo's Hiera be a published one, as only those are known by their weights."""
        published = Variant(**segmenter.options['model.backbone.arch'])
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(VARIANTS, 'demo', published)
            yield published

    @pytest.fixture(scope='class', params=['detector', 'segmenter'])
    def trained(self, small, request, tmp_path_factory):
        """The config of a training from weights, the file of weights, and where it was done."""
        task = request.getfixturevalue(request.param)
        folder = tmp_path_factory.mktemp(request.param)
        # A map of another size for the segmenter: then it is no published Hiera to the last field.
        grid = (56, 56) if request.param == 'detector' else (48, 48)
        arch = replace(small, pos_embed=replace(small.pos_embed, grid=grid))
        weights = folder / 'weights.pth'
        torch.save(HieraTrunk(arch).state_dict(), weights)
        options = {k: v for k, v in task.options.items() if k != 'model.backbone.arch'}
        init = dict(type='Pretrained', checkpoint=str(weights))
        backbone = dict(_delete_=True, type='Hiera', arch='auto', init_cfg=init)
        config = folder / f'auto_{task.config.name}'
        config.write_text(f'_base_ = {str(task.config)!r}\nmodel = dict(backbone={backbone})')
        done = replace(task, config=config, options=options, work_dir=folder / 'w')
        train(done.config, work_dir=str(done.work_dir), cfg_options=options)
        weights.rename(weights.with_suffix('.moved'))
        return done

    def test_is_named_in_the_saved_config(self, trained):
        saved = Config.fromfile(trained.work_dir / trained.config.name)
        if saved.default_scope == 'mmdet':
            assert saved.model.backbone.arch == 'demo'
        else:
            arch = saved.model.backbone.arch.to_dict()
            assert arch['pos_embed'] == dict(type='window_aligned', grid=(48, 48))
            assert arch['embed_dim'] == VARIANTS['demo'].embed_dim

    def test_the_toolboxes_build_the_saved_config(self, trained):
        saved = str(trained.work_dir / trained.config.name)
        if 'mask-rcnn' in saved:
            from mmdet.apis import init_detector as init
        else:
            from mmseg.apis import init_model as init
        model = init(saved, trained.checkpoint, device='cpu')
        expected = read_checkpoint(trained.checkpoint)['state_dict']['backbone.blocks.0.norm1.bias']
        assert torch.equal(model.backbone.blocks[0].norm1.bias, expected)

    def test_is_taken_from_the_checkpoint_where_the_weights_are_gone(
        self, trained, shapes, tmp_path
    ):
        options = trained.options
        work_dir = str(tmp_path / 'w')
        assert evaluate(trained.config, trained.checkpoint, work_dir=work_dir, cfg_options=options)
        image = next(shapes.images('validation').iterdir())
        out = tmp_path / 'out'
        found = predict(trained.config, trained.checkpoint, image, out, cfg_options=options)
        assert found.drawings
        with pytest.raises(CheckpointError, match='does not exist'):
            train(trained.config, work_dir=work_dir, cfg_options=options)


@pytest.mark.parametrize(
    ('backbone', 'message'),
    [
        (dict(arch='bsae'), "no Hiera called 'bsae'; did you mean 'base'"),
        (dict(pos_embed=dict(type='absolute_win', gird=(7, 7))), "unknown option 'gird'"),
        (dict(type='Hierra'), 'Hierra is not in the mmseg::model registry'),
    ],
)
def test_mistakes_in_the_backbone_are_one_paragraph(
    segmenter, tmp_path, run_here, backbone, message
):
    config = tmp_path / 'config.py'
    backbone = dict(_delete_=True, type='Hiera') | backbone
    config.write_text(f'_base_ = {str(segmenter.config)!r}\nmodel = dict(backbone={backbone})')
    data = [f'{k}={v}' for k, v in segmenter.options.items() if k.endswith('data_root')]
    done = run_here('train.py', config, '--work-dir', tmp_path / 'w', '--cfg-options', *data)
    assert done.returncode == 2
    error = done.stderr[done.stderr.index('\nConfigError: ') :].strip()
    assert message in error
    assert '\n\n' not in error
    assert 'Traceback' not in error


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

    def test_checkpoints_that_would_run_something(self, segmenter, trap, tmp_path):
        path, marker = trap({'patch_embed.proj.weight': torch.ones(1)})
        work_dir = tmp_path / 'w'
        work_dir.mkdir()
        (work_dir / 'last_checkpoint').write_text(path)
        init_cfg = dict(type='Pretrained', checkpoint=path)
        for changes, resume in [
            (dict(load_from=path), None),
            (dict(model__backbone__init_cfg=init_cfg), None),
            ({}, path),
            ({}, 'auto'),
        ]:
            with pytest.raises(CheckpointError, match='nothing in it was run'):
                train(
                    segmenter.config,
                    work_dir=str(work_dir),
                    cfg_options=segmenter.changed(**changes),
                    resume=resume,
                )
        with pytest.raises(CheckpointError, match='nothing in it was run'):
            evaluate(segmenter.config, path, work_dir=str(tmp_path), cfg_options=segmenter.options)
        assert not marker.exists()

    def test_other_model(self, segmenter, tmp_path):
        other = str(tmp_path / 'other.pth')
        torch.save({'state_dict': nn.Linear(2, 2).state_dict(), 'meta': {}}, other)
        options = segmenter.changed(load_from=other)
        with pytest.raises(CheckpointError, match=r'named by load_from.*nothing was loaded'):
            train(segmenter.config, work_dir=str(tmp_path), cfg_options=options)
        with pytest.raises(CheckpointError, match=r'nothing was loaded.*\n.*missing in the file'):
            evaluate(segmenter.config, other, cfg_options=segmenter.options)

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


class TestCompiling:
    @pytest.fixture(autouse=True)
    def clean(self):
        before = torch._dynamo.config.recompile_limit
        yield
        torch._dynamo.config.recompile_limit = before
        torch._dynamo.reset()

    def test_sizes_do_not_matter_nor_do_names_change(self, monkeypatch):
        graphs = []

        def backend(graph, _):  # instead of one that makes machine code, which takes minutes
            graphs.append(graph)
            return graph.forward

        compile_module = nn.Module.compile
        monkeypatch.setattr(
            nn.Module, 'compile', lambda self, **kw: compile_module(self, backend=backend, **kw)
        )
        arch = dict(embed_dim=16, num_heads=2, depths=(1, 1, 1, 1))
        model = nn.Sequential(Hiera(arch=arch)).train()
        images = [torch.rand(2, 3, *size) for size in [(64, 96), (96, 160), (224, 32)]]
        expected = [model(image) for image in images]
        names = list(model.state_dict())
        compile_hiera(model)
        assert list(model.state_dict()) == names
        counts = []
        for image, features in zip(images, expected, strict=True):
            for ours, theirs in zip(model(image), features, strict=True):
                assert torch.allclose(ours, theirs, atol=1e-5)
            counts.append(len(graphs))
        assert counts[0] > 0
        assert counts[1] == counts[-1]  # other numbers of windows need nothing new

    def test_a_model_without_hiera(self):
        with pytest.raises(ConfigError, match='this model has none'):
            compile_hiera(nn.Sequential(nn.Linear(1, 1)))

    @pytest.mark.slow
    def test_a_training_with_compiled_blocks(self, segmenter, tmp_path):
        options = segmenter.changed(train_cfg__max_iters=3, randomness__seed=1)
        for name, compiled in (('plain', False), ('compiled', True)):
            folder = str(tmp_path / name)
            train(segmenter.config, work_dir=folder, cfg_options=options, compile=compiled)
        plain, compiled = (
            read_checkpoint(tmp_path / name / 'iter_3.pth')['state_dict']
            for name in ('plain', 'compiled')
        )
        assert list(plain) == list(compiled)
        for name, tensor in plain.items():
            assert torch.allclose(compiled[name].float(), tensor.float(), atol=1e-3), name
