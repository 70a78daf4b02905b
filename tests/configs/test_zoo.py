"""Every config of the zoo: its model trains and predicts, at the rates that it should have."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import asdict
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmseg.structures import SegDataSample

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
DEMO, FOUND = (
    sorted(
        path.relative_to(ROOT).as_posix() for name in names for path in (ROOT / name).rglob('*.py')
    )
    for names in (['demo'], ['coco', 'ade20k'])
)


class Size(NamedTuple):
    arch: str
    blocks: int
    decay_rate: float  # Table 14b of the paper
    drop_path: float  # Table 15, for T and S Table 14b
    short: float  # for 12 epochs: Table 14b


class Recipe(NamedTuple):
    rate: float
    weight_decay: float
    batch: int
    # How slowly a backbone learns: 'layers' by the decay rate of its size, or by one factor.
    backbone: str | float


SIZES = {
    't': Size('tiny', 12, 0.65, 0.1, 0.1),
    's': Size('small', 16, 0.65, 0.1, 0.1),
    'b': Size('base', 24, 0.7, 0.2, 0.1),
    'bp': Size('base_plus', 24, 0.7, 0.2, 0.1),
    'l': Size('large', 48, 0.85, 0.4, 0.2),
}
# By a part of the name, the first that is there
RECIPES = {
    'hiera-l_fpn_16xb4-lsj-100e': Recipe(3e-5, 0.1, 64, 1.0),
    'lsj-100e': Recipe(3.5e-5, 0.1, 64, 1.0),
    'mask2former': Recipe(1e-4, 0.05, 16, 0.1),
    'dino': Recipe(1e-4, 1e-4, 16, 0.1),
    'ade20k': Recipe(1e-4, 0.05, 16, 'layers'),
    '': Recipe(1e-4, 0.05, 16, 1.0),
}


def expected(name):
    """What the name of a config promises: size, network, checkpoint and recipe."""
    sam2, letters = re.search(r'_(sam2-)?hiera-([a-z]+)_', name).groups()
    size = SIZES[letters]
    recipe = next(recipe for part, recipe in RECIPES.items() if part in name)
    if sam2:
        return size, f'sam2_{size.arch}', f'sam2.1://{size.arch}', recipe
    return size, size.arch, f'release://{size.arch}/mae_in1k', recipe


def test_all_configs_are_there():
    assert len(FOUND) == 72
    assert len(DEMO) == 2


# --- What they say


def build(config):
    """Build a config's model as its toolbox would; it will load no weights."""
    scope = config.default_scope
    import_module(f'{scope}.utils').register_all_modules(init_default_scope=False)
    models = import_module(f'{scope}.registry').MODELS
    with DefaultScope.overwrite_default_scope(scope):
        return models.build(without_weights(deepcopy(config.model)))


@pytest.fixture(scope='module')
def build_on_meta(load):
    """A function that builds a model of shapes alone, and gives its config too."""

    @cache
    def build_once(name):
        config = load(name)
        with torch.device('meta'):
            return build(config), config

    return build_once


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
def test_backbone_and_optimiser_are_as_the_papers_say(name, build_on_meta):
    size, arch, checkpoint, recipe = expected(name)
    model, config = build_on_meta(name)
    backbone = model.backbone
    layout = f'{arch}_windowed' if 'lsj-100e' in name else arch
    assert config.model.backbone.arch == layout
    assert backbone.variant == VARIANTS[layout]
    assert len(backbone.blocks) == size.blocks
    drop_path = size.short if '_1x_' in name or '-12e_' in name else size.drop_path
    assert config.model.backbone.drop_path_rate == drop_path
    assert config.model.backbone.init_cfg == dict(type='Pretrained', checkpoint=checkpoint)
    assert CATALOG[checkpoint].arch == arch

    groups = groups_of(model, config)
    assert len(groups) == len(list(model.parameters()))

    def check_rate(parameters, layer):
        if recipe.backbone == 'layers':
            rate = recipe.rate * size.decay_rate ** (size.blocks + 1 - layer)
        else:
            rate = recipe.rate * recipe.backbone
        for parameter in parameters:
            assert groups[id(parameter)]['lr'] == pytest.approx(rate, rel=1e-9, abs=0)

    for index in (0, size.blocks // 2, size.blocks - 1):
        check_rate(backbone.blocks[index].parameters(), index + 1)
    positions = [getattr(backbone, key) for key in backbone.position_names]
    check_rate((*positions, *backbone.patch_embed.parameters()), 0)
    inside = {id(parameter) for parameter in backbone.parameters()}
    outside = {groups[id(p)]['lr'] for p in model.parameters() if id(p) not in inside}
    assert list(outside) == pytest.approx([recipe.rate], rel=1e-9, abs=0)

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
def test_pixels_are_those_of_its_name(name, load):
    config = load(name)
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
def test_the_papers_heads_have_its_layers_and_norms(name, build_on_meta):
    from hiera_mm.detection.norms import LayerNorm2d

    model, config = build_on_meta(name)
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
    groups = groups_of(model, config)
    for layer in (layer for part in parts for layer in part):
        assert isinstance(layer.norm, LayerNorm2d)
        assert layer.norm.normalized_shape == (256,)
        assert groups[id(layer.norm.weight)]['weight_decay'] == 0
        assert groups[id(layer.conv.weight)]['weight_decay'] == 0.1

    assert config.train_cfg.max_iters == 184375
    warm_up, steps = config.param_scheduler
    assert (warm_up.type, warm_up.end) == ('LinearLR', 250)
    shares = [milestone / 184375 for milestone in steps.milestones]
    assert [round(share, 3) for share in shares] == [0.889, 0.963]
    assert 'decay_rate' not in config.optim_wrapper.paramwise_cfg


@pytest.mark.parametrize(
    ('size', 'ours', 'papers'),
    [('b', 72_934_576, 73), ('bp', 91_239_888, 92), ('l', 234_950_512, 236)],
)
def test_mask_rcnn_is_as_large_as_the_papers(size, ours, papers, build_on_meta):
    """Table 10 of the paper. It agrees to about a million, the size of a classifier on top."""
    name = f'coco/mask_rcnn/mask-rcnn_hiera-{size}_fpn_16xb4-lsj-100e_coco.py'
    model, _ = build_on_meta(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == ours
    assert ours / 1e6 == pytest.approx(papers, abs=1.1)


# --- Whether they work

PIXELS = ('scale', 'scales', 'crop_size', 'size', 'max_size', 'pad_size_divisor')
SMALLER = 8
# What takes time on a CPU and makes no difference to what is tried: numbers of queries, of points,
# of proposals, of predictions, of layers in heads, and their widths.
NUMBERS = dict(
    num_queries=20,
    num_points=64,
    nms_pre=50,
    num=8,
    max_per_img=10,
    num_dn_queries=10,
    num_layers=2,
    feedforward_channels=64,
    fc_out_channels=64,
    channels=64,
)
# One of each model, kind of data and schedule; the others differ from these in size.
DAILY = (
    *DEMO,
    'coco/faster_rcnn/faster-rcnn_hiera-t_fpn_1x_coco.py',
    'coco/mask_rcnn/mask-rcnn_sam2-hiera-t_fpn_1x_coco.py',
    'coco/cascade_rcnn/cascade-mask-rcnn_hiera-b_fpn_16xb4-lsj-100e_coco.py',
    'coco/retinanet/retinanet_hiera-t_fpn_1x_coco.py',
    'coco/atss/atss_hiera-t_fpn_1x_coco.py',
    'coco/dino/dino-4scale_hiera-t_8xb2-12e_coco.py',
    'coco/mask2former/mask2former_hiera-t_1x_coco.py',
    'coco/mask2former/mask2former_hiera-t_8xb2-lsj-50e_coco-panoptic.py',
    'ade20k/upernet/upernet_hiera-t_8xb2-160k_ade20k-512x512.py',
    'ade20k/sem_fpn/sem-fpn_hiera-t_8xb2-160k_ade20k-512x512.py',
    'ade20k/segformer/segformer_hiera-t_8xb2-160k_ade20k-512x512.py',
    'ade20k/mask2former/mask2former_hiera-b_8xb2-160k_ade20k-640x640.py',
)


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
        if config.default_scope == 'mmseg':
            dataset.data_prefix = dict(img_path=images, seg_map_path=str(shapes.labels(split)))
        elif dataset.type == 'CocoPanopticDataset':
            dataset.ann_file = str(panoptic / f'{split}.json')
            dataset.data_prefix = dict(img=images, seg=str(panoptic / split))
        else:
            dataset.ann_file = str(shapes.instances(split))
            dataset.data_prefix = dict(img=images)
            dataset.metainfo = dict(classes=THING_CLASSES)


@pytest.mark.parametrize(
    'name',
    [*DAILY, *(pytest.param(n, marks=pytest.mark.slow) for n in FOUND if n not in DAILY)],
)
def test_it_trains_and_predicts(name, load, shapes, panoptic, panopticapi):
    np.random.seed(0)  # of the pipelines
    config = reduce(load(name))
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
        assert prediction.pred_sem_seg.data.max() < config.model.decode_head.num_classes
        return
    found = prediction.pred_instances
    assert found.bboxes.shape == (len(found.labels), 4)
    assert found.bboxes.isfinite().all()
    assert ('masks' in found) == ('mask' in name)
    if 'mask' in name:
        assert np.asarray(found.masks).shape[1:] == shape
    if 'panoptic' in name:
        assert prediction.pred_panoptic_seg.sem_seg.shape[-2:] == shape


@pytest.mark.parametrize('side', [512, pytest.param(640, marks=pytest.mark.slow)])
def test_segmenters_can_be_tested_at_several_scales(side, load, shapes, panoptic):
    config = load(f'ade20k/sem_fpn/sem-fpn_hiera-b_8xb2-160k_ade20k-{side}x{side}.py')
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


@pytest.mark.parametrize('mode', ['whole', 'slide'])
@pytest.mark.parametrize('name', [name for name in DAILY if 'ade20k' in name])
def test_segmenters_predict_at_sizes_that_are_no_multiple_of_a_mask_unit(name, mode, load):
    config = reduce(load(name))
    config.model.test_cfg = dict(mode=mode, crop_size=(96, 96), stride=(64, 64))
    config.model.backbone.arch = dict(embed_dim=96, num_heads=1, depths=(1, 1, 1, 1))
    model = build(config).eval()
    for shape in ((150, 201), (70, 110), (50, 33)):  # beyond the crop, partly and not
        image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
        sample = SegDataSample(metainfo=dict(ori_shape=shape, img_shape=shape))
        with torch.no_grad():
            (prediction,) = model.test_step(dict(inputs=[image], data_samples=[sample]))
        assert prediction.seg_logits.data.shape == (150, *shape)
        assert prediction.seg_logits.data.isfinite().all()


def test_panoptic_data_passes_the_checks_before_training(load, shapes, panoptic, tmp_path):
    config = load('coco/mask2former/mask2former_hiera-t_1x_coco-panoptic.py')
    use_data(config, shapes, panoptic)
    classes = check_data(config, ('train',))
    assert len(classes) == 80 + 53
    other = (panoptic / 'training.json').read_text().replace('car', 'k')
    (tmp_path / 'other.json').write_text(other)
    config.train_dataloader.dataset.ann_file = str(tmp_path / 'other.json')
    with pytest.raises(DataError, match='Only in the config: car'):
        check_data(config, ('train',))
