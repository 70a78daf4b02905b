"""Training and testing with the demo's configs, and what is refused before either begins."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from hiera_mm.backbone import Hiera
from hiera_mm.engine import CheckpointError, ConfigError, DataError, commands, predict
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
    segmenter.train(
        tmp_path,
        dict(ema=True, track=track),
        train_cfg__max_iters=2,
        optim_wrapper__optimizer__lr=1.0,
        default_hooks__logger__interval=1,
    )
    saved = read_checkpoint(tmp_path / 'iter_2.pth')
    name = 'decode_head.conv_seg.weight'
    # What is tested goes by the model's names, what is trained is kept beside it.
    trained = saved['ema_state_dict'][f'module.{name}']
    assert not torch.equal(saved['state_dict'][name], trained)
    events = [path.read_bytes() for path in tmp_path.rglob('events.out.tfevents*')]
    assert [b'decode.loss_ce' in written for written in events] == [True for _ in track]


def test_a_pretrained_backbone_is_trained_from(segmenter, tmp_path):
    arch = segmenter.options['model.backbone.arch']
    trunk = HieraTrunk(arch, out_norm_eps=None)
    family = FAMILIES['transformers']
    state = {family.theirs(n, arch['depths']): v for n, v in trunk.state_dict().items()}
    torch.save(state, tmp_path / 'transformers.bin')
    runner = segmenter.train(
        tmp_path,
        model__backbone__init_cfg__checkpoint=str(tmp_path / 'transformers.bin'),
        optim_wrapper__optimizer__lr=0.0,
        param_scheduler=None,
    )
    backbone = runner.model.backbone.state_dict()
    for name, value in trunk.state_dict().items():
        assert torch.equal(backbone[name], value), name
    logs = [path.read_text() for path in tmp_path.rglob('*.log')]
    assert any('family        transformers (HieraModel)' in text for text in logs)


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
        done.train(done.work_dir)
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

    def test_is_that_of_the_checkpoint_where_the_weights_are_gone(self, trained, shapes, tmp_path):
        assert trained.test(tmp_path)
        image = next(shapes.images('validation').iterdir())
        options = dict(cfg_options=trained.options)
        found = predict(trained.config, trained.checkpoint, image, tmp_path / 'out', **options)
        assert found.drawings
        with pytest.raises(CheckpointError, match='does not exist'):
            trained.train(tmp_path)


@pytest.mark.parametrize(
    ('backbone', 'message'),
    [
        (dict(arch=5), 'arch must be a name'),
        (dict(drop_rate=0.1), 'drop_rate'),
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
    how = dict(out=str(out), show_dir=str(tmp_path / 'drawings'))
    scores = trained_detector.test(tmp_path, how)
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(scores)
    with out.open('rb') as file:
        assert len(pickle.load(file)) == 2
    assert len(list((tmp_path / 'drawings').glob('*.jpg'))) == 2
    for wrong, message in [
        (dict(out='predictions.json'), r'\.pkl'),
        (dict(tta=True), 'merges boxes and no masks'),
    ]:
        with pytest.raises(ConfigError, match=message):
            trained_detector.test(tmp_path, wrong)


def test_segmenter_is_tested(trained_segmenter, tmp_path):
    how = dict(out=str(tmp_path / 'maps'), show_dir=str(tmp_path / 'drawings'))
    scores = trained_segmenter.test(tmp_path, how, visualizer__name='not shared with others')
    assert 0 <= scores['mIoU'] <= 100
    assert len(list((tmp_path / 'maps').glob('*.png'))) == 2
    assert len(list((tmp_path / 'drawings').rglob('*.png'))) == 2


def test_segmenter_is_tested_with_augmented_copies(trained_segmenter, tmp_path):
    flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
    rest = [[dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]]
    augment = dict(type='TestTimeAug', transforms=[flips, *rest])
    scores = trained_segmenter.test(
        tmp_path,
        dict(tta=True),
        tta_model=dict(type='SegTTAModel'),
        tta_pipeline=[dict(type='LoadImageFromFile'), augment],
    )
    assert 0 <= scores['mIoU'] <= 100


def test_start_from_a_model_with_other_classes(trained_segmenter, tmp_path, logged, monkeypatch):
    monkeypatch.setattr(Runner, 'train', lambda self: None)
    weights = read_checkpoint(trained_segmenter.checkpoint)
    for name in ('decode_head.conv_seg.weight', 'decode_head.conv_seg.bias'):
        weights['state_dict'][name] = weights['state_dict'][name][:3]
    torch.save(weights, tmp_path / 'three-classes.pth')
    trained_segmenter.train(tmp_path / 'w', load_from=str(tmp_path / 'three-classes.pth'))
    assert 'decode_head.conv_seg.bias (file [3], model [8])' in logged[0]


class TestRefusals:
    """Each is found before the first iteration, and before the first image."""

    def test_checkpoints_that_would_run_something(self, segmenter, trap, tmp_path):
        path, marker = trap({'patch_embed.proj.weight': torch.ones(1)})
        (tmp_path / 'last_checkpoint').write_text(path)
        refused = 'nothing in it was run'
        for changes, resume in [
            (dict(load_from=path), None),
            (dict(model__backbone__init_cfg=dict(type='Pretrained', checkpoint=path)), None),
            ({}, path),
            ({}, 'auto'),
        ]:
            with pytest.raises(CheckpointError, match=refused):
                segmenter.train(tmp_path, dict(resume=resume), **changes)
        with pytest.raises(CheckpointError, match=refused):
            segmenter.test(tmp_path, dict(checkpoint=path))
        assert not marker.exists()

    def test_weights_of_another_backbone(self, segmenter, tmp_path):
        arch = dict(segmenter.options['model.backbone.arch'], embed_dim=32)
        torch.save(HieraTrunk(arch).state_dict(), tmp_path / 'wide.pth')
        for checkpoint, message in [
            (str(tmp_path / 'missing.pth'), r'missing\.pth does not exist'),
            ('sam2://tyni', "did you mean 'sam2://tiny'"),
            (str(tmp_path / 'wide.pth'), 'embed_dim 32'),
        ]:
            with pytest.raises(CheckpointError, match=message):
                segmenter.train(tmp_path, model__backbone__init_cfg__checkpoint=checkpoint)

    def test_other_model(self, segmenter, tmp_path):
        other = str(tmp_path / 'other.pth')
        torch.save({'state_dict': nn.Linear(2, 2).state_dict(), 'meta': {}}, other)
        with pytest.raises(CheckpointError, match=r'named by load_from.*nothing was loaded'):
            segmenter.train(tmp_path, load_from=other)
        with pytest.raises(CheckpointError, match=r'nothing was loaded.*\n.*missing in the file'):
            segmenter.test(tmp_path, dict(checkpoint=other))

    def test_weights_without_training_state_cannot_be_resumed(self, trained_segmenter, tmp_path):
        weights = read_checkpoint(trained_segmenter.checkpoint)['state_dict']
        torch.save({'state_dict': weights}, tmp_path / 'weights.pth')
        with pytest.raises(CheckpointError, match='no meta and no optimizer and no message_hub'):
            trained_segmenter.train(tmp_path / 'w', dict(resume=str(tmp_path / 'weights.pth')))

    def test_data_that_is_missing(self, detector, tmp_path):
        missing = dict(train_dataloader__dataset__data_root=str(tmp_path / 'none'))
        with pytest.raises(DataError, match=r'Looked for(.|\n)*--skip-checks'):
            detector.train(tmp_path, **missing)
        with pytest.raises(FileNotFoundError):
            detector.train(tmp_path, dict(skip_checks=True), **missing)

    def test_data_that_is_empty(self, detector, tmp_path):
        with pytest.raises(DataError, match='training data is empty'):
            detector.train(
                tmp_path,
                train_dataloader__dataset__indices=0,
                train_dataloader__dataset__serialize_data=False,
            )

    def test_options_of_a_data_set_that_it_does_not_have(self, detector, tmp_path):
        for skip in (False, True):
            with pytest.raises(ConfigError, match='no_such_option'):
                detector.train(
                    tmp_path,
                    dict(skip_checks=skip),
                    train_dataloader__dataset__no_such_option=1,
                )

    def test_work_dir_that_cannot_be_made(self, segmenter, tmp_path):
        (tmp_path / 'file').touch()
        with pytest.raises(ConfigError, match='Cannot write to the folder'):
            segmenter.train(tmp_path / 'file' / 'w')


class TestChecks:
    @pytest.fixture(autouse=True)
    def trained_no_further(self, monkeypatch):
        monkeypatch.setattr(Runner, 'train', lambda self: None)

    def test_one_process_of_a_machine_reads_the_data(self, detector, tmp_path, monkeypatch):
        checked = []
        monkeypatch.setattr(commands, 'check_data', lambda cfg, splits: checked.append(splits))
        for rank in range(3):
            monkeypatch.setenv('LOCAL_RANK', str(rank))
            detector.train(tmp_path)
        assert checked == [('train', 'val')]

    def test_what_another_process_found_is_raised(self, detector, tmp_path, monkeypatch):
        monkeypatch.setattr(commands, 'all_gather_object', lambda own: [DataError('gone'), own])
        with pytest.raises(DataError, match='gone'):
            detector.train(tmp_path)

    def test_a_check_that_fails_itself_stops_nothing(self, detector, tmp_path, monkeypatch):
        monkeypatch.setattr(commands, 'check_data', lambda cfg, splits: 1 / 0)
        assert detector.train(tmp_path)

    def test_they_draw_no_random_number(self, segmenter, tmp_path):
        drawn = []
        for skip in (False, True):
            segmenter.train(tmp_path, dict(skip_checks=skip), randomness__seed=1)
            drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
        assert drawn[0] == drawn[1]


class TestCompiling:
    @pytest.fixture(autouse=True)
    def clean(self):
        before = torch._dynamo.config.save_config()
        yield
        torch._dynamo.config.load_config(before)
        torch._dynamo.reset()

    def test_sizes_do_not_matter_nor_do_names_change(self, monkeypatch, capsys):
        graphs = []

        def backend(graph, _):  # instead of one that makes machine code, which takes minutes
            graphs.append(graph)
            return graph.forward

        compile_module = nn.Module.compile
        monkeypatch.setattr(
            nn.Module, 'compile', lambda self, **kw: compile_module(self, backend=backend, **kw)
        )
        arch = dict(embed_dim=16, num_heads=2, depths=(1, 1, 1, 1))
        model = nn.Sequential(Hiera(arch=arch, frozen_stages=1)).train()
        images = [torch.rand(2, 3, *size) for size in [(64, 96), (96, 160), (224, 32)]]
        expected = [model(image) for image in images]
        names = list(model.state_dict())
        compile_hiera(model)
        assert list(model.state_dict()) == names
        counts = []
        with torch.no_grad():  # as the trial of the validation
            model(images[0])
        assert not graphs
        for image, features in zip(images, expected, strict=True):
            for ours, theirs in zip(model(image), features, strict=True):
                assert torch.allclose(ours, theirs, atol=1e-5)
            counts.append(len(graphs))
        assert '4/4' in capsys.readouterr().err.splitlines()[-1]  # blocks, once
        assert counts[0] > 0
        assert counts[1] == counts[-1]  # other numbers of windows need nothing new

    def test_a_model_without_hiera(self):
        with pytest.raises(ConfigError, match='this model has none'):
            compile_hiera(nn.Sequential(nn.Linear(1, 1)))

    @pytest.mark.slow
    def test_a_training_with_compiled_blocks(self, segmenter, tmp_path):
        for name in ('plain', 'compiled'):
            how = dict(compile=name == 'compiled')
            segmenter.train(tmp_path / name, how, train_cfg__max_iters=3, randomness__seed=1)
        plain, compiled = (
            read_checkpoint(tmp_path / name / 'iter_3.pth')['state_dict']
            for name in ('plain', 'compiled')
        )
        assert list(plain) == list(compiled)
        for name, tensor in plain.items():
            assert torch.allclose(compiled[name].float(), tensor.float(), atol=1e-3), name
