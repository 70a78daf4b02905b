"""Every config of the zoo: its model trains and predicts, at the rates that it should have."""

import re
from dataclasses import asdict, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from demo.shapes import THING_CLASSES
from hiera_mm.engine import DataError
from hiera_mm.engine.config import use_tta, walk
from hiera_mm.engine.data_checks import check_data
from hiera_mm.engine.launch import replace_sync_norms
from hiera_mm.network import VARIANTS
from hiera_mm.network.variants import resolve_variant
from hiera_mm.trial.models import without_weights
from hiera_mm.weights.catalog import CATALOG

ROOT = Path(__file__).parents[2] / 'configs'
FOUND = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ('coco', 'ade20k')
    for path in (ROOT / folder).rglob('*.py')
)


class Size(NamedTuple):
    arch: str
    blocks: int
    decay_rate: float  # Table 14b of the paper
    drop_path: float  # Table 15, for T and S Table 14b
    checkpoint: str


class Recipe(NamedTuple):
    rate: float
    weight_decay: float
    batch: int
    # How slowly a backbone learns: 'layers' by the decay rate of its size, or by one factor.
    backbone: str | float


SIZES = {
    'hiera-t': Size('tiny', 12, 0.65, 0.1, 'release://tiny/mae_in1k'),
    'hiera-s': Size('small', 16, 0.65, 0.1, 'release://small/mae_in1k'),
    'hiera-b': Size('base', 24, 0.7, 0.2, 'release://base/mae_in1k'),
    'hiera-bp': Size('base_plus', 24, 0.7, 0.2, 'release://base_plus/mae_in1k'),
    'hiera-l': Size('large', 48, 0.85, 0.4, 'release://large/mae_in1k'),
    'sam2-hiera-t': Size('sam2_tiny', 12, 0.65, 0.1, 'sam2.1://tiny'),
    'sam2-hiera-s': Size('sam2_small', 16, 0.65, 0.1, 'sam2.1://small'),
    'sam2-hiera-bp': Size('sam2_base_plus', 24, 0.7, 0.2, 'sam2.1://base_plus'),
    'sam2-hiera-l': Size('sam2_large', 48, 0.85, 0.4, 'sam2.1://large'),
}
T_S_B = ('hiera-t', 'hiera-s', 'hiera-b')
RELEASE = (*T_S_B, 'hiera-bp', 'hiera-l')
SAM2 = ('sam2-hiera-t', 'sam2-hiera-s', 'sam2-hiera-bp', 'sam2-hiera-l')
LAYERS = Recipe(1e-4, 0.05, 16, 'layers')
MASK2FORMER = Recipe(1e-4, 0.05, 16, 0.1)
DINO = Recipe(1e-4, 1e-4, 16, 0.1)
PAPER = Recipe(3.5e-5, 0.1, 64, 1.0)
PAPER_L = Recipe(3e-5, 0.1, 64, 1.0)

EXPECTED = {
    pattern.format(backbone): (SIZES[backbone], recipe)
    for pattern, backbones, recipe in [
        ('coco/faster_rcnn/faster-rcnn_{}_fpn_1x_coco.py', T_S_B, LAYERS),
        ('coco/mask_rcnn/mask-rcnn_{}_fpn_1x_coco.py', RELEASE + SAM2, LAYERS),
        ('coco/cascade_rcnn/cascade-mask-rcnn_{}_fpn_1x_coco.py', RELEASE, LAYERS),
        ('coco/retinanet/retinanet_{}_fpn_1x_coco.py', T_S_B, LAYERS),
        ('coco/atss/atss_{}_fpn_1x_coco.py', T_S_B, LAYERS),
        *(
            (f'coco/{name}_{{}}_fpn_16xb4-lsj-100e_coco.py', backbones, recipe)
            for name in (
                'faster_rcnn/faster-rcnn',
                'mask_rcnn/mask-rcnn',
                'cascade_rcnn/cascade-mask-rcnn',
            )
            for backbones, recipe in ((('hiera-b', 'hiera-bp'), PAPER), (('hiera-l',), PAPER_L))
        ),
        ('coco/dino/dino-4scale_{}_8xb2-12e_coco.py', ('hiera-t', 'hiera-b', 'hiera-l'), DINO),
        *(
            (f'coco/mask2former/mask2former_{{}}_{schedule}_coco{task}.py', backbones, MASK2FORMER)
            for task in ('', '-panoptic')
            for schedule, backbones in (
                ('1x', ('hiera-t', 'hiera-b')),
                ('8xb2-lsj-50e', (*T_S_B, 'hiera-l')),
            )
        ),
        *(
            (f'ade20k/{name}_{{}}_8xb2-160k_ade20k-{side}x{side}.py', backbones, recipe)
            for name, side, backbones, recipe in (
                ('upernet/upernet', 512, RELEASE + SAM2, LAYERS),
                ('upernet/upernet', 640, ('hiera-b', 'hiera-l'), LAYERS),
                ('sem_fpn/sem-fpn', 512, T_S_B, LAYERS),
                ('sem_fpn/sem-fpn', 640, ('hiera-b',), LAYERS),
                ('segformer/segformer', 512, T_S_B, LAYERS),
                ('segformer/segformer', 640, ('hiera-b',), LAYERS),
                ('mask2former/mask2former', 512, T_S_B, MASK2FORMER),
                ('mask2former/mask2former', 640, ('hiera-b', 'hiera-bp', 'hiera-l'), MASK2FORMER),
            )
        ),
    ]
    for backbone in backbones
}


# The paper's detectors have windows in all stages but for these blocks (docs/cost.md).
PAPER_BLOCKS = {'base': (12, 16, 20), 'base_plus': (12, 16, 20), 'large': (23, 33, 43)}


def variant_of(name, size):
    variant = VARIANTS[size.arch]
    if 'lsj-100e' not in name:
        return variant
    blocks = PAPER_BLOCKS[size.arch]
    return replace(variant, window_sizes=(8, 4, 16, 8), global_blocks=blocks)


def test_every_config_is_expected_and_every_expected_one_is_there():
    assert sorted(EXPECTED) == FOUND
    assert len(FOUND) == 72


# --- What they say


def build(config):
    """Build a config's model as its toolbox would, without weights."""
    scope = config.default_scope
    import_module(f'{scope}.utils').register_all_modules(init_default_scope=False)
    models = import_module(f'{scope}.registry').MODELS
    with DefaultScope.overwrite_default_scope(scope):
        return models.build(without_weights(config.model))


@cache
def build_on_meta(name):
    """Build a model of shapes alone; return its config too, as it was."""
    config = Config.fromfile(ROOT / name)
    with torch.device('meta'):
        return build(Config(config.to_dict())), config


def groups_of(model, config):
    """Return what the optimiser that a config describes does with each parameter."""
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    assert type(wrapper.optimizer) is torch.optim.AdamW
    return {
        id(parameter): group
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }


@pytest.mark.parametrize('name', FOUND)
def test_backbone_and_optimiser_are_as_the_papers_say(name):
    size, recipe = EXPECTED[name]
    model, config = build_on_meta(name)
    backbone = model.backbone
    assert backbone.variant == variant_of(name, size)
    assert len(backbone.blocks) == size.blocks
    assert config.model.backbone.drop_path_rate == size.drop_path
    assert config.model.backbone.init_cfg == dict(type='Pretrained', checkpoint=size.checkpoint)
    assert CATALOG[size.checkpoint].arch == size.arch

    groups = groups_of(model, config)
    assert len(groups) == len(list(model.parameters()))

    def rate_of(parameter):
        return groups[id(parameter)]['lr']

    def expected(layer):
        if recipe.backbone == 'layers':
            return recipe.rate * size.decay_rate ** (size.blocks + 1 - layer)
        return recipe.rate * recipe.backbone

    exactly = dict(rel=1e-9, abs=0)
    for index in (0, size.blocks // 2, size.blocks - 1):
        for parameter in backbone.blocks[index].parameters():
            assert rate_of(parameter) == pytest.approx(expected(index + 1), **exactly)
    positions = [getattr(backbone, key) for key in backbone.position_names]
    for parameter in (*positions, *backbone.patch_embed.parameters()):
        assert rate_of(parameter) == pytest.approx(expected(0), **exactly)
    inside = {id(parameter) for parameter in backbone.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in inside:
            assert rate_of(parameter) == pytest.approx(recipe.rate, **exactly)

    def decay_of(parameter):
        return groups[id(parameter)]['weight_decay']

    first = backbone.blocks[0]
    assert decay_of(first.attn.qkv.weight) == decay_of(first.mlp.fc1.weight) == recipe.weight_decay
    for parameter in (*positions, *first.norm1.parameters(), first.mlp.fc1.bias):
        assert decay_of(parameter) == 0
    assert {tuple(group['betas']) for group in groups.values()} == {(0.9, 0.999)}

    in_name = re.search(r'_(\d+)xb(\d+)-', name)
    gpus, per_gpu = (int(n) for n in in_name.groups()) if in_name else (8, 2)
    assert config.train_dataloader.batch_size == per_gpu
    assert gpus * per_gpu == recipe.batch
    assert config.auto_scale_lr == dict(enable=False, base_batch_size=recipe.batch)


@pytest.mark.parametrize('name', FOUND)
def test_pixels_are_those_of_its_name(name):
    config = Config.fromfile(ROOT / name)
    preprocessor = config.model.data_preprocessor
    assert preprocessor.mean == [123.675, 116.28, 103.53]
    assert preprocessor.std == [58.395, 57.12, 57.375]
    assert preprocessor.bgr_to_rgb
    if config.default_scope == 'mmseg':
        side = int(name[-6:-3])
        assert tuple(preprocessor.size) == (side, side)
        crops = [step.crop_size for step in config.train_pipeline if step.type == 'RandomCrop']
        assert crops == [(side, side)]
        assert config.test_pipeline[1].scale == (4 * side, side)
        sizes = [step.scale for step in config.tta_pipeline[1].transforms[0]]
        assert sizes == [(r * side, r * side // 4) for r in (2, 3, 4, 5, 6, 7)]
    else:
        assert preprocessor.pad_size_divisor == (1024 if 'lsj-100e' in name else 32)
        pipeline = config.test_dataloader.dataset.pipeline
        side = (1024, 1024) if 'lsj-100e' in name else (1333, 800)
        assert [step.scale for step in pipeline if step.type == 'Resize'] == [side]


@pytest.mark.parametrize('name', [name for name in FOUND if 'lsj-100e' in name])
def test_the_papers_heads_have_its_layers_and_norms(name):
    model, config = build_on_meta(name)
    from hiera_mm.detection.norms import LayerNorm2d

    roi_head = model.roi_head
    several = isinstance(roi_head.bbox_head, torch.nn.ModuleList)
    assert several == ('cascade' in name)
    parts = [model.rpn_head.rpn_conv]
    for head in roi_head.bbox_head if several else [roi_head.bbox_head]:
        assert type(head).__name__ == 'Shared4Conv1FCBBoxHead'
        assert (len(head.shared_convs), len(head.shared_fcs)) == (4, 1)
        assert not len(head.cls_convs) and not len(head.reg_convs)
        parts.append(head.shared_convs)
    if 'mask' in name:
        for head in roi_head.mask_head if several else [roi_head.mask_head]:
            assert len(head.convs) == 4
            parts.append(head.convs)
    assert len(parts[0]) == 2
    assert len(parts) == {'faster': 2, 'mask-r': 3, 'cascad': 7}[Path(name).name[:6]]
    for part in parts:
        for layer in part:
            assert isinstance(layer.norm, LayerNorm2d)
            assert layer.norm.normalized_shape == (256,)

    assert config.train_cfg.max_iters == 184375
    warm_up, steps = config.param_scheduler
    assert (warm_up.type, warm_up.end) == ('LinearLR', 250)
    shares = [milestone / 184375 for milestone in steps.milestones]
    assert [round(share, 3) for share in shares] == [0.889, 0.963]
    assert 'decay_rate' not in config.optim_wrapper.paramwise_cfg
    groups = groups_of(model, config)
    for part in parts:
        for layer in part:
            assert groups[id(layer.norm.weight)]['weight_decay'] == 0
            assert groups[id(layer.conv.weight)]['weight_decay'] == 0.1


@pytest.mark.parametrize(
    ('size', 'ours', 'papers'),
    [('b', 72_934_576, 73), ('bp', 91_239_888, 92), ('l', 234_950_512, 236)],
)
def test_mask_rcnn_is_as_large_as_the_papers(size, ours, papers):
    """Table 10 of the paper. It agrees to about a million, the size of a classifier on top."""
    name = f'coco/mask_rcnn/mask-rcnn_hiera-{size}_fpn_16xb4-lsj-100e_coco.py'
    model, _ = build_on_meta(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == ours
    assert ours / 1e6 == pytest.approx(papers, abs=1.1)


# --- Whether they work

PIXELS = ('scale', 'scales', 'crop_size', 'size', 'max_size', 'pad_size_divisor')
SMALLER = 8
# What takes time on a CPU and makes no difference to what is tried: numbers of queries, of points,
# of proposals and of predictions.
NUMBERS = dict(num_queries=20, num_points=64, nms_pre=50, num=8, max_per_img=10, num_dn_queries=10)


def shrink(value):
    """Divide sizes in pixels; strides and padding to mask units stay."""
    if isinstance(value, (list, tuple)):
        return type(value)(shrink(item) for item in value)
    return value // SMALLER if isinstance(value, int) and value > 32 else value


def reduce(config):
    """Make a config one that can be tried in a second or two."""
    parts = [config.model, config.train_dataloader, config.test_dataloader]
    for node in walk([*parts, config.get('tta_pipeline')]):
        for key in PIXELS:
            if key in node:
                node[key] = shrink(node[key])
    for node in walk(config.model):
        for key, most in NUMBERS.items():
            if isinstance(node.get(key), int):
                node[key] = min(node[key], most)
    replace_sync_norms(config.model)
    backbone = config.model.backbone
    variant = resolve_variant(backbone.arch)
    if sum(variant.depths) > 16:  # a hundred million parameters, each with its two moments
        fields = dict(asdict(variant), depths=(1, 1, 2, 1), pos_embed=variant.pos_embed)
        backbone.arch = dict(fields, global_blocks=(3,) if variant.global_blocks else ())
    for loader in (config.train_dataloader, config.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    config.train_dataloader.batch_size = 2
    return config


def use_data(config, shapes, panoptic):
    """Let a config read the generated data."""
    for loader, split in (('train_dataloader', 'training'), ('test_dataloader', 'validation')):
        dataset = config[loader].dataset
        # Serialising a data set collects garbage first, which takes longer than all the rest.
        dataset.update(data_root='', serialize_data=False)
        images = str(shapes.images(split))
        if dataset.type == 'ADE20KDataset':
            dataset.data_prefix = dict(img_path=images, seg_map_path=str(shapes.labels(split)))
        elif dataset.type == 'CocoPanopticDataset':
            dataset.ann_file = str(panoptic / f'{split}.json')
            dataset.data_prefix = dict(img=images, seg=str(panoptic / split))
        else:
            dataset.ann_file = str(shapes.instances(split))
            dataset.data_prefix = dict(img=images)
            dataset.metainfo = dict(classes=THING_CLASSES)


@pytest.mark.parametrize('name', FOUND)
def test_it_trains_and_predicts(name, shapes, panoptic, panopticapi):
    np.random.seed(0)  # of the pipelines
    config = reduce(Config.fromfile(ROOT / name))
    use_data(config, shapes, panoptic)
    scope = config.default_scope
    model = build(config)
    with DefaultScope.overwrite_default_scope(scope):
        wrapper = build_optim_wrapper(model, config.optim_wrapper)
        batch = next(iter(Runner.build_dataloader(config.train_dataloader, seed=0)))
        tests = Runner.build_dataloader(config.test_dataloader)

    model.init_weights()
    model.train()
    losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
    loss, _ = model.parse_losses(losses)
    assert loss.isfinite()
    before = model.backbone.patch_embed.proj.weight.detach().clone()
    wrapper.update_params(loss)
    # AdamW keeps moments of what had a gradient, and of nothing else.
    for key, parameter in model.named_parameters():
        state = wrapper.optimizer.state.get(parameter)
        assert state, f'{key} had no gradient, and training on several GPUs would stop'
        if key.startswith('backbone.'):
            assert state['exp_avg'].isfinite().all(), key
    assert wrapper.optimizer.state[model.backbone.patch_embed.proj.weight]['exp_avg'].any()
    assert not torch.equal(before, model.backbone.patch_embed.proj.weight)
    del wrapper

    model.eval()
    with torch.no_grad():
        (prediction,) = model.test_step(next(iter(tests)))
    shape = tuple(prediction.ori_shape[:2])
    if scope == 'mmseg':
        assert prediction.pred_sem_seg.data.shape[1:] == shape
        assert prediction.pred_sem_seg.data.max() < 150
        return
    found = prediction.pred_instances
    assert found.bboxes.shape == (len(found.labels), 4)
    assert found.bboxes.isfinite().all()
    assert ('masks' in found) == ('mask' in name)
    if 'mask' in name:
        assert np.asarray(found.masks).shape[1:] == shape
    if 'panoptic' in name:
        assert prediction.pred_panoptic_seg.sem_seg.shape[-2:] == shape


@pytest.mark.parametrize('side', [512, 640])
def test_segmenters_can_be_tested_at_several_scales(side, shapes, panoptic):
    config = Config.fromfile(
        ROOT / f'ade20k/sem_fpn/sem-fpn_hiera-b_8xb2-160k_ade20k-{side}x{side}.py'
    )
    use_data(reduce(config), shapes, panoptic)
    use_tta(config)
    model = build(config)
    with DefaultScope.overwrite_default_scope('mmseg'):
        batch = next(iter(Runner.build_dataloader(config.test_dataloader)))
    assert len(batch['inputs']) == 2 * 6
    shorter = [min(images[0].shape[-2:]) for images in batch['inputs'][::2]]
    assert shorter == [shrink(side * ratio // 4) for ratio in (2, 3, 4, 5, 6, 7)]
    model.eval()
    with torch.no_grad():
        (prediction,) = model.test_step(batch)
    assert prediction.pred_sem_seg.data.shape[1:] == prediction.ori_shape


def test_panoptic_data_passes_the_checks_before_training(shapes, panoptic):
    config = Config.fromfile(ROOT / 'coco/mask2former/mask2former_hiera-t_1x_coco-panoptic.py')
    use_data(config, shapes, panoptic)
    classes = check_data(config, ('train',))
    assert len(classes) == 80 + 53
    (panoptic / 'other.json').write_text(
        (panoptic / 'training.json').read_text().replace('car', 'k')
    )
    config.train_dataloader.dataset.ann_file = str(panoptic / 'other.json')
    with pytest.raises(DataError, match='Only in the config: car'):
        check_data(config, ('train',))
