import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from hiera_mm.backbone import Hiera
from hiera_mm.engine.config import load_config
from hiera_mm.errors import CheckpointError, ConfigError
from hiera_mm.swap import swap
from hiera_mm.swap.swapping import plain, prepare, read
from hiera_mm.swap.ways import SwappedModel
from hiera_mm.swap.write import check_out, default_out
from hiera_mm.trial.configs import configs_root, resolve
from hiera_mm.trial.models import build_start

from .conftest import SLIM, WIDTHS

DETECTOR = 'mmdet/rpn/rpn_r50_fpn_1x_coco'


@pytest.fixture(scope='module')
def detector():
    return read(DETECTOR)


@pytest.fixture(scope='module')
def swapped(detector):
    return prepare(detector, SLIM)


def test_swap_gives_a_complete_config():
    cfg = swap(DETECTOR, SLIM)
    assert isinstance(cfg, Config)
    assert cfg.custom_imports.imports == ['hiera_mm']
    assert cfg.model.backbone == dict(type='Hiera', arch=SLIM, drop_path_rate=0.1)
    assert cfg.model.neck.in_channels == WIDTHS
    assert cfg.optim_wrapper.optimizer.type == 'AdamW'
    assert cfg.train_dataloader == Config.fromfile(resolve(DETECTOR)).train_dataloader
    with DefaultScope.overwrite_default_scope('mmdet'):
        MODELS.build(cfg.model)


def test_the_schedule_can_stay():
    cfg = swap(DETECTOR, SLIM, keep_schedule=True)
    original = Config.fromfile(resolve(DETECTOR))
    assert cfg.optim_wrapper == original.optim_wrapper
    assert cfg.param_scheduler == original.param_scheduler
    assert cfg.model.backbone == dict(type='Hiera', arch=SLIM)


def test_what_is_written_is_short_and_says_why(swapped, tmp_path):
    out = swapped.write(tmp_path / 'mine.py')
    assert plain(Config.fromfile(out)) == swapped.config
    assert out.read_text() == swapped.text(out)
    text = out.read_text()
    assert len(text.splitlines()) < 30
    base = configs_root('mmdet') / f'{DETECTOR.partition("/")[2]}.py'
    assert f"_base_ = '{base}'" in text
    assert 'in the place of ResNet' in text
    assert 'torchvision://resnet50' in text.split('_base_')[0]
    assert "backbone=dict(_delete_=True, type='Hiera'" in text
    assert list(tmp_path.iterdir()) == [out]


def test_a_config_of_ones_own_is_named_from_where_the_new_one_is(tmp_path):
    own = tmp_path / 'mine' / 'detector.py'
    own.parent.mkdir()
    own.write_text(f"_base_ = {str(resolve(DETECTOR))!r}\ncustom_imports = dict(imports=['json'])")
    swapped = prepare(read(own), SLIM)
    out = swapped.write(tmp_path / 'other' / 'new.py')
    assert "_base_ = '../mine/detector.py'" in out.read_text()
    cfg = Config.fromfile(out)
    assert cfg.custom_imports.imports == ['hiera_mm', 'json']


def test_nothing_is_overwritten_and_nothing_half_written(swapped, tmp_path, monkeypatch):
    out = tmp_path / 'mine.py'
    out.write_text('precious = 1')
    with pytest.raises(ConfigError, match='Choose another --out, or give --force'):
        swapped.write(out)
    assert out.read_text() == 'precious = 1'
    monkeypatch.setattr(type(swapped), 'text', lambda *_, **__: 'x = 1')
    with pytest.raises(RuntimeError, match='reads otherwise'):
        swapped.write(out, force=True)
    assert out.read_text() == 'precious = 1'
    monkeypatch.undo()
    swapped.write(out, force=True)
    assert 'precious' not in out.read_text()
    assert list(tmp_path.iterdir()) == [out]


def test_places_that_cannot_be_written_to_are_refused(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(ConfigError, match='Cannot write to the folder'):
        check_out(tmp_path / 'file' / 'new.py', force=False)
    with pytest.raises(ConfigError, match=r'has to end in \.py'):
        check_out(tmp_path / 'new.txt', force=False)


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('model = dict(', 'cannot be read: SyntaxError'),
        ("_base_ = 'nowhere.py'", 'cannot be read: FileNotFoundError'),
        ("custom_imports = dict(imports=['no_such_module'])", 'cannot be read: ImportError'),
        ("default_scope = 'mmdet'", 'has no model'),
        ('model = dict()', "default_scope = None; here it has to be one of 'mmdet' and 'mmseg'"),
        ("model = dict()\ndefault_scope = 'mmpose'", "default_scope = 'mmpose'"),
        ("model = dict()\ndefault_scope = 'mmdet'", 'mine cannot take Hiera: it has no backbone'),
    ],
)
def test_what_cannot_be_swapped_is_refused(text, reason, tmp_path):
    (tmp_path / 'mine.py').write_text(text)
    with pytest.raises(ConfigError, match=reason):
        swap(tmp_path / 'mine.py', SLIM)


def test_weights_are_named_and_not_downloaded(detector, tmp_path):
    file = tmp_path / 'slim.pth'
    torch.save(Hiera(SLIM, out_norm=None).state_dict(), file)
    for arch, weights in ((SLIM, str(file)), ('tiny', 'release://tiny/mae_in1k')):
        config = prepare(detector, arch, weights=weights).config
        init_cfg = dict(type='Pretrained', checkpoint=weights)
        assert config['model']['backbone']['init_cfg'] == init_cfg
        assert config['optim_wrapper']['constructor'] == 'HieraOptimWrapperConstructor'
        assert 'decay_rate' not in (config['optim_wrapper'].get('paramwise_cfg') or {})


def test_wrong_names_are_refused_before_anything_is_built(detector, tmp_path, monkeypatch):
    monkeypatch.setattr('hiera_mm.swap.swapping.swap_model', None)
    with pytest.raises(ConfigError, match=r'tinny.*tiny'):
        prepare(detector, 'tinny')
    with pytest.raises(ConfigError, match='auto'):
        prepare(detector, 'auto')
    file = tmp_path / 'slim.pth'
    torch.save(Hiera(SLIM, out_norm=None).state_dict(), file)
    for arch, weights, offered in (
        ('tiny', str(file), ''),
        (SLIM, str(tmp_path / 'none.pth'), ''),
        (SLIM, 'release://base/mae_in1k', ''),
        ('tiny', 'release://base/mae_in1k', 'known for tiny are release://tiny/mae_in1k'),
        ('sam2_tiny', 'release://sam2_tiny/sa1b', 'known for sam2_tiny are sam2://tiny'),
        ('sam2_tiny', 'nowhere://tiny', 'known for sam2_tiny are sam2://tiny'),
    ):
        with pytest.raises(CheckpointError, match=offered):
            prepare(detector, arch, weights=weights)


def test_settings_without_a_place_in_hiera_are_listed(swapped, tmp_path):
    head = ' '.join(re.findall('(?m)^# (.*)', swapped.text(tmp_path)))
    lost = 'depth, num_stages, frozen_stages, norm_cfg, norm_eval, style.'
    assert f'Its settings that Hiera does without: {lost}' in head


STUDENT = """
model = dict(
    type='KnowledgeDistillationSingleStageDetector',
    teacher_config='configs/teacher.py',
    teacher_ckpt='https://nowhere.invalid/teacher.pth',
    backbone=dict(type='ResNet', depth=18, num_stages=4, out_indices=(0, 1, 2, 3)),
    neck=dict(
        type='FPN', in_channels=[64, 128, 256, 512], out_channels=32, start_level=1,
        add_extra_convs='on_output', num_outs=5,
    ),
    bbox_head=dict(
        type='LDHead', num_classes=2, in_channels=32, stacked_convs=1, feat_channels=32,
        anchor_generator=dict(
            type='AnchorGenerator', ratios=[1.0], octave_base_scale=8, scales_per_octave=1,
            strides=[8, 16, 32, 64, 128],
        ),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True),
        loss_ld=dict(type='KnowledgeDistillationKLDivLoss', loss_weight=0.25, T=10),
        loss_bbox=dict(type='GIoULoss'),
    ),
    train_cfg=dict(assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms_pre=10, min_bbox_size=0, score_thr=0.05,
                  nms=dict(type='nms', iou_threshold=0.6), max_per_img=10),
)
default_scope = 'mmdet'
"""  # its parts are those of mmdet's LD


@pytest.fixture
def student(tmp_path):
    """A distilled student in a repository of its own, which names its teacher from the root."""
    folder = tmp_path / 'repository' / 'configs'
    (folder / 'ld').mkdir(parents=True)
    (folder / 'ld' / 'student.py').write_text(STUDENT)
    cfg = Config.fromfile(folder / 'ld' / 'student.py')
    teacher = {key: value for key, value in cfg.model.items() if 'teacher' not in key}
    teacher |= dict(type='GFL', bbox_head={**teacher['bbox_head'], 'type': 'GFLHead'})
    del teacher['bbox_head']['loss_ld']
    Config(dict(model=teacher)).dump(folder / 'teacher.py')
    return folder / 'ld' / 'student.py'


def test_files_named_from_a_repository_are_found_from_anywhere(student, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    swapped = prepare(read(student), SLIM)
    out = swapped.write(tmp_path / 'new.py')
    assert load_config(out).model.teacher_config == str(student.parents[1] / 'teacher.py')
    # One file that stands alone has the teacher inside, who keeps the backbone.
    out = swapped.write(tmp_path / 'full.py', full=True)
    shutil.rmtree(tmp_path / 'repository')
    cfg = load_config(out)
    assert '_base_ =' not in out.read_text()
    assert str(tmp_path) not in out.read_text()
    assert cfg.model.teacher_config.model.backbone.type == 'ResNet'
    build_start(cfg)


def test_a_schedule_that_no_training_can_start_with_is_refused(detector, swapped, tmp_path):
    paramwise = dict(swapped.config['optim_wrapper'], paramwise_cfg=dict(decay_rate=2))
    wrong = replace(swapped, config=dict(swapped.config, optim_wrapper=paramwise))
    with pytest.raises(ConfigError, match=r'No training can start.*decay_rate'):
        wrong.write(tmp_path / 'new.py')
    assert not any(tmp_path.iterdir())
    assert 'not tried out' in replace(wrong, tried=False).write(tmp_path / 'new.py').read_text()


def test_outputs_that_are_not_read_are_told_to_ddp(detector, monkeypatch, tmp_path):
    def unread(model, *args, **options):
        return SwappedModel(model, unread=True)

    monkeypatch.setattr('hiera_mm.swap.swapping.swap_model', unread)
    out = prepare(detector, SLIM).write(tmp_path / 'new.py')
    assert Config.fromfile(out).find_unused_parameters is True


def test_names_in_the_scheme_of_the_toolboxes():
    for stem, expected in (
        ('mask-rcnn_r50_fpn_1x_coco', 'mask-rcnn_{}_fpn_1x_coco'),
        ('mask-rcnn_r50-caffe_fpn_1x_coco', 'mask-rcnn_{}_fpn_1x_coco'),
        ('retinanet_x101-64x4d_fpn_1x_coco', 'retinanet_{}_fpn_1x_coco'),
        ('pspnet_r50-d8_4xb2-40k_cityscapes', 'pspnet_{}_4xb2-40k_cityscapes'),
        ('upernet_swin-tiny-patch4_8xb2_ade20k', 'upernet_{}_8xb2_ade20k'),
        ('ssd300_coco', 'ssd300_coco_{}'),
    ):
        out = Path(f'{expected.format("hiera-base-plus")}.py')
        assert default_out(Path(f'{stem}.py'), 'base_plus') == out


LAZY = """
from mmengine.config import read_base
from mmdet.models.backbones.resnet import ResNet

with read_base():
    from .base import *

model.update(backbone=dict(type=ResNet, depth=18))
model.update(neck=dict(in_channels=[64, 128, 256, 512]))
"""


@pytest.fixture
def lazy_config(tmp_path, detector):
    """A detector in the pure-Python style, in two files."""
    folder = tmp_path / 'lazy'
    folder.mkdir()
    config = Config.fromfile(detector.file)
    lines = ['from mmdet.models.detectors.rpn import RPN']
    lines += [f'{key} = {value!r}' for key, value in plain(config).items()]
    lines.append('default_scope = None')  # as the toolboxes have it in this style
    text = '\n'.join(lines).replace("'type': 'RPN'", "'type': RPN")
    (folder / 'base.py').write_text(text)
    (folder / 'mine.py').write_text(LAZY)
    return folder / 'mine.py'


def test_configs_in_pure_python_stay_so(lazy_config):
    original = read(lazy_config)
    assert original.lazy
    assert original.config['model']['type'].endswith('RPN')
    swapped = prepare(original, SLIM)
    out = swapped.write(lazy_config.parent / 'configs' / 'new.py')
    text = out.read_text()
    assert 'from ..mine import *' in text
    assert 'model.merge(' in text
    assert 'in the place of ResNet,' in text
    assert plain(Config.fromfile(out)) == swapped.config
    # All of it is a text config, which names classes by their modules.
    out = swapped.write(lazy_config.parent / 'full.py', full=True)
    assert 'read_base' not in out.read_text()
    assert plain(Config.fromfile(out)) == swapped.config


@pytest.mark.slow
def test_configs_in_pure_python_work_in_the_scripts_of_the_toolboxes(lazy_config, tmp_path):
    out = prepare(read(lazy_config), SLIM).write(lazy_config.parent / 'new.py')
    # They import the toolbox first.
    script = (
        'import mmdet.utils\n'
        'from mmengine.config import Config\n'
        'from mmengine.registry import init_default_scope\n'
        'from mmdet.registry import MODELS\n'
        f'cfg = Config.fromfile({str(out)!r})\n'
        'cfg.model.backbone.arch = dict(embed_dim=16, num_heads=1, depths=(1, 1, 1, 1))\n'
        'init_default_scope(cfg.default_scope)\n'
        'print(type(MODELS.build(cfg.model).backbone).__name__)\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', script], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == 'Hiera'


def test_a_copy_in_another_place_needs_no_toolbox_folder(swapped, tmp_path):
    out = swapped.write(tmp_path / 'new.py')
    elsewhere = tmp_path / 'deep' / 'er'
    elsewhere.mkdir(parents=True)
    assert plain(Config.fromfile(shutil.copy(out, elsewhere))) == swapped.config
