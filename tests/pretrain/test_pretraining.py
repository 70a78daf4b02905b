"""A whole pretraining, by its tool: pictures, reports, resuming, and what follows it."""

from __future__ import annotations

import re
from argparse import Namespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from hiera_mm.backbone import Hiera
from hiera_mm.pretrain import HieraMAE
from hiera_mm.pretrain.hooks import ReconstructionHook, draw, reconstruct
from hiera_mm.pretrain.mae import MAEOutput, patches
from hiera_mm.weights.reading import read_checkpoint
from tests.engine.conftest import CONFIGS, forget_other_runs

ARCH = dict(embed_dim=16, num_heads=1, depths=(1, 1, 1, 1))


@pytest.fixture
def config(tmp_path):
    """A pretraining of seconds."""
    return write_config(tmp_path, None)


def write_config(tmp_path, init_cfg):
    base = CONFIGS / 'pretrain' / 'mae_hiera-t_1xb128-100e_images.py'
    path = tmp_path / 'quick.py'
    path.write_text(
        f"""_base_ = {str(base)!r}
model = dict(
    backbone=dict(arch=dict(_delete_=True, **{ARCH})), init_cfg={init_cfg},
    decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=1)
train_dataloader = dict(
    batch_size=3, num_workers=0, persistent_workers=False,
    dataset=dict(pipeline=[
        dict(type='LoadImageFromFile'), dict(type='RandomAreaCrop', scale=64),
        dict(type='RandomFlip', prob=0.5)]))
train_cfg = dict(max_epochs=2)
randomness = dict(seed=0)
default_hooks = dict(checkpoint=dict(interval=1), logger=dict(interval=1))
custom_hooks = [
    dict(type='ReconstructionHook', interval=3, num_images=2), dict(type='ImageProblemsHook')]
"""
    )
    return path


@pytest.fixture
def pretrain(run_here, config, folder, tmp_path):
    def run(*args, images=folder):
        forget_other_runs()
        return run_here('pretrain.py', config, '--images', images, '--work-dir', tmp_path / 'work',
                        *args)  # fmt: skip

    return run


def test_a_pretraining_and_what_follows(pretrain, folder, tmp_path):
    (folder / 'broken.jpg').write_bytes(b'no image')
    done = pretrain()
    assert done.returncode == 0, done.stderr
    work = tmp_path / 'work'
    assert f'Image {folder}/broken.jpg is unusable' in done.stdout + done.stderr
    assert re.search(r'Images unusable, and left out: 1 \(.*broken\.jpg', done.stdout + done.stderr)
    assert 'failed to load' in (work / 'image_problems.txt').read_text()
    pictures = sorted(path.name for path in work.glob('*/vis_data/vis_image/*'))
    assert pictures == ['reconstruction_1.png', 'reconstruction_3.png', 'reconstruction_6.png']
    picture = cv2.imread(str(next(work.glob('*/vis_data/vis_image/*_3.png'))))
    assert picture.shape == (2 * 64, 3 * 64, 3)

    whole = read_checkpoint(work / 'epoch_2.pth')['state_dict']
    backbone = Hiera(ARCH, init_cfg=dict(type='Pretrained', checkpoint=str(work / 'epoch_2.pth')))
    backbone.init_weights()
    for name, tensor in backbone.state_dict().items():
        assert name.startswith('out_norms') or tensor.equal(whole[f'backbone.{name}'])

    # Killed after its first epoch and resumed, it ends as it would have without.
    (work / 'epoch_2.pth').unlink()
    (work / 'last_checkpoint').write_text(str(work / 'epoch_1.pth'))
    assert pretrain('--resume').returncode == 0
    again = read_checkpoint(work / 'epoch_2.pth')['state_dict']
    assert all(again[name].equal(tensor) for name, tensor in whole.items())


def test_pictures_move_no_generator_and_show_the_same_units_masked():
    model = HieraMAE(dict(type='Hiera', arch=ARCH, drop_path_rate=0.5), 16, 1, 1)
    pictures = []
    visualizer = Namespace(add_image=lambda name, image, step: pictures.append(image))
    runner = Namespace(iter=0, max_iters=9, model=model.train(), visualizer=visualizer)
    batch = {'inputs': [torch.rand(3, 64, 64) for _ in range(5)]}
    for _ in range(2):
        torch.rand(3)
        before = torch.get_rng_state()
        ReconstructionHook(num_images=3).after_train_iter(runner, 0, batch)
        assert torch.get_rng_state().equal(before)
    assert model.training
    assert pictures[0].shape == (3 * 64, 3 * 64, 3)
    assert np.array_equal(*pictures)


def test_going_on_from_another_pretraining(pretrain, tmp_path):
    model = HieraMAE(dict(type='Hiera', arch=ARCH), 16, 1, 1)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'start.pth')
    write_config(tmp_path, dict(checkpoint=str(tmp_path / 'start.pth')))
    done = pretrain('--cfg-options', 'train_cfg.max_epochs=1', 'optim_wrapper.optimizer.lr=0')
    assert done.returncode == 0, done.stderr
    found = read_checkpoint(tmp_path / 'work' / 'epoch_1.pth')['state_dict']
    assert all(found[name].equal(tensor) for name, tensor in model.state_dict().items())

    done = pretrain('--cfg-options', 'model.decoder_embed_dim=32')
    assert done.returncode == 2
    assert 'another decoder' in done.stderr


@pytest.mark.slow
def test_compiled(pretrain):
    done = pretrain('--compile', '--cfg-options', 'train_cfg.max_epochs=1')
    assert done.returncode == 0, done.stderr
    assert 'the 5 blocks of Hiera are compiled' in done.stdout + done.stderr


def test_user_errors_are_short(pretrain, tmp_path):
    for images, message in (
        (tmp_path / 'none', 'does not exist'),
        (tmp_path / 'empty', 'no files'),
    ):
        (tmp_path / 'empty').mkdir(exist_ok=True)
        done = pretrain(images=images)
        assert done.returncode == 2
        assert message in done.stderr
    done = pretrain('--cfg-options', 'model.mask_ratio=0.9')
    assert done.returncode == 2
    assert '0 would be visible' in done.stderr


def test_reconstructions_are_the_predictions():
    """Perfect predictions give the image back; without colours known, pictures are still drawn."""
    images = torch.randn(2, 3, 64, 96)
    mask = torch.tensor([[True, False, True, False, False, True]] * 2)
    labels = patches(images)
    labels = labels - labels.mean(-1, keepdim=True)
    labels = labels / (labels.var(-1, keepdim=True) + 1e-6).sqrt()
    tokens = mask.view(2, 2, 3).repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)
    labels = labels[~tokens].unflatten(0, (2, -1))
    output = MAEOutput(torch.tensor(0.0), labels, labels, mask)
    torch.testing.assert_close(reconstruct(images, output), images, rtol=0, atol=1e-5)

    picture = draw(images, output)
    assert picture.shape == (128, 288, 3)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture[:32, :32], picture[:32, 96:128])  # visible
    assert (picture[:32, 128:160] == 127).all()  # masked
    assert np.abs(picture[:, 192:].astype(int) - picture[:, :96]).max() <= 1
    # Of 16 bits: spread over the range that there is.
    preprocessor = Namespace(mean=torch.tensor(30000.0), std=torch.tensor(20000.0))
    picture = draw(images, output, preprocessor)[:, :96]
    assert picture.min() == 0
    assert picture.max() == 255
    assert len(np.unique(picture)) > 100
    grey = draw(images[:, :1], MAEOutput(output.loss, labels[..., :256], labels[..., :256], mask))
    assert (grey[..., 0] == grey[..., 2]).all()


@pytest.mark.parametrize(
    'path', sorted((CONFIGS / 'pretrain').glob('*xb*.py')), ids=lambda p: p.stem
)
def test_configs_have_the_papers_recipe(path):
    """arXiv 2306.00989, Table 14a; rate and length of the one for own images are ours."""
    cfg = Config.fromfile(path)
    arch = cfg.model.backbone.arch
    own = 'images' in path.stem
    assert cfg.model.mask_ratio == 0.6
    assert (cfg.model.decoder_depth, cfg.model.decoder_num_heads) == (8, 16)
    rates = dict(tiny=0.0, small=0.0, base=0.2, base_plus=0.2, large=0.2, huge=0.3)
    assert cfg.model.backbone.drop_path_rate == rates[arch]
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.betas, optimizer.weight_decay) == ((0.9, 0.95), 0.05)
    warm_up, cosine = cfg.param_scheduler
    assert warm_up.end == cosine.begin
    assert cosine.end == cfg.train_cfg.max_epochs
    if own:
        assert cfg.auto_scale_lr.base_batch_size == cfg.train_dataloader.batch_size == 128
        assert cfg.model.init_cfg.checkpoint == 'release://tiny/mae_in1k'
    else:
        gpus, batch = re.search(r'_(\d+)xb(\d+)-', path.name).groups()
        assert int(gpus) * int(batch) == cfg.auto_scale_lr.base_batch_size == 4096
        assert int(batch) == cfg.train_dataloader.batch_size
        assert (optimizer.lr, cfg.train_cfg.max_epochs, warm_up.end) == (8e-4, 400, 40)
    crop = cfg.train_dataloader.dataset.pipeline[1]
    assert (crop.scale, crop.crop_ratio_range) == (224, (0.2, 1.0))
