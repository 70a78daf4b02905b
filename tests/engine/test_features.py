from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hiera_mm.backbone import Hiera
from hiera_mm.engine import CheckpointError, ConfigError, DataError, draw_features
from hiera_mm.engine.features import (
    attention_of,
    draw,
    load_network,
    look,
    principal_components,
    resize,
)
from hiera_mm.network.layout import to_image

ARCH = dict(embed_dim=16, num_heads=1, depths=(1, 1, 2, 1))
WINDOWED = dict(ARCH, window_sizes=(8, 8, 6, 2))


def build(arch, **options):
    """A network whose attention is far from even."""
    network = Hiera(arch, **options).eval()
    for block in network.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight)
    return network


@pytest.fixture
def checkpoint(tmp_path):
    torch.save({'state_dict': build(ARCH).state_dict()}, tmp_path / 'trained.pth')
    return tmp_path / 'trained.pth'


def reference(attn, tokens, grid, x, y):
    """The attention of one token in image order: a slice of the map, and a softmax."""
    image = to_image(tokens, grid)[0]
    height, width = image.shape[1:]
    unit = height // grid[0]
    side = attn.window * unit or max(height, width)
    row, column = y * unit // 32, x * unit // 32
    top, left = row // side * side, column // side * side
    if attn.window:  # may go beyond the image, where there are zeros
        image = F.pad(image, (0, side, 0, side))
    window = image[:, top : top + side, left : left + side].permute(1, 2, 0)
    query, keys, _ = attn.qkv(window).unflatten(-1, (3, attn.num_heads, -1)).unbind(-3)
    pool = 2 if attn.pool else 1
    row, column = (row - top) // pool * pool, (column - left) // pool * pool
    query = query[row : row + pool, column : column + pool].amax((0, 1))
    logits = torch.einsum('nd,hwnd->nhw', query, keys) / query.shape[-1] ** 0.5
    taken = logits.flatten(1).softmax(1).view_as(logits).mean(0)
    whole = torch.zeros(2 * max(height, width), 2 * max(height, width))
    whole[top : top + len(taken), left : left + taken.shape[1]] = taken
    return whole[:height, :width]


@pytest.mark.parametrize('x, y', [(40, 61), (95, 0)])
@pytest.mark.parametrize('arch', [ARCH, WINDOWED], ids=['global', 'windowed'])
def test_attention(arch, x, y):
    """Of blocks with and without query pooling; windows of 3x3 units go beyond these 2x4."""
    network, grid = build(arch), (2, 4)
    with torch.no_grad():
        tokens = network.embed(torch.randn(1, 3, 64, 128), grid)
        for block in network.blocks:
            normed = block.norm1(tokens)
            taken = attention_of(block.attn, normed, grid, x, y)
            expected = reference(block.attn, normed, grid, x, y)
            torch.testing.assert_close(taken, expected, rtol=1e-4, atol=1e-6)
            if not block.attn.window:
                assert taken.sum() == pytest.approx(1, abs=1e-4)
            tokens = block(tokens, grid)


@pytest.mark.parametrize(
    'arch, blocks',
    [(ARCH, [3, 4]), (WINDOWED, [3, 4]), (dict(WINDOWED, global_blocks=(2,)), [2, 4])],
)
def test_look(arch, blocks):
    """Global attention goes before windows; features are those of the network."""
    network = build(arch)
    image = torch.randn(1, 3, 96, 64)
    features, attention = look(network, image, 5, 90)
    assert list(attention) == blocks
    for ours, feature in zip(features, network(image), strict=True):
        torch.testing.assert_close(ours, feature)


def test_principal_components():
    feature = torch.randn(1, 8, 6, 5) * torch.arange(1, 9).view(1, 8, 1, 1)
    vectors = feature[0].flatten(1).T.double().numpy()
    u, s, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    ours = principal_components(feature).reshape(30, 3)
    np.testing.assert_allclose(abs(ours), abs(u * s)[:, :3], atol=1e-9)


def test_panels_lie_over_the_image():
    image = resize(np.random.default_rng(0).integers(0, 256, (37, 75, 3), np.uint8), 128)
    assert image.shape == (64, 128, 3)
    network, seen = build(ARCH), []
    network.patch_embed.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    panels = draw({'a': network, 'b': build(WINDOWED)}, image, (1.0, 0.0)).axes
    assert seen[0][0, 2, 5, 7].item() == pytest.approx((image[5, 7, 2] - 103.53) / 57.375)
    assert len(panels) == 14
    drawn = [axes.images[-1] for axes in panels[:7]]
    assert {tuple(picture.get_extent()) for picture in drawn} == {(0, 128, 64, 0)}
    sizes = [picture.get_array().shape[:2] for picture in drawn]
    assert sizes == [(64, 128), (16, 32), (8, 16), (4, 8), (2, 4), (4, 8), (4, 8)]
    assert panels[0].lines[0].get_xydata().tolist() == [[127.5, 0.5]]
    assert 'global' in panels[6].get_title()
    assert 'window' in panels[13].get_title()


def test_folder_with_odd_images(checkpoint, tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    for name, shape in (('tall.png', (90, 7)), ('one.jpg', (1, 1, 3))):
        cv2.imwrite(str(folder / name), np.zeros(shape, np.uint8))
    (folder / 'broken.png').touch()
    found = draw_features(
        checkpoint, [folder], folder, arch=ARCH, beside=['random'], size=64, device='cpu'
    )
    assert [path.name for path in found.drawings] == ['one.jpg.png', 'tall.png.png']
    assert [path.name for path in found.failed] == ['broken.png']
    assert all(cv2.imread(str(path)) is not None for path in found.drawings)


def test_relative_position_is_found(tmp_path):
    trained = build(ARCH, rel_pos='global')
    torch.nn.init.normal_(trained.blocks[3].attn.rel_pos_h)
    torch.save(trained.state_dict(), tmp_path / 'x.pth')
    image = torch.randn(1, 3, 64, 64)
    _, attention = look(load_network(tmp_path / 'x.pth', ARCH), image, 9, 9)
    _, expected = look(trained, image, 9, 9)
    torch.testing.assert_close(attention[3], expected[3])
    assert attention[3].sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    'options, error, message',
    [
        (dict(point=(0.5, 2)), ConfigError, r'--point .* \(0\.5, 2\)'),
        (dict(size=0), ConfigError, '--size must be at least 1'),
        (dict(images=['none']), DataError, 'No image or folder none'),
        (dict(), CheckpointError, r"arch='auto' cannot tell"),
        (dict(arch='tinny'), ConfigError, "did you mean 'tiny'"),
        (dict(arch=ARCH, device='none'), ConfigError, '--device none: '),
    ],
)
def test_errors(checkpoint, tmp_path, options, error, message):
    cv2.imwrite(str(tmp_path / 'x.png'), np.zeros((9, 9)))
    arguments = dict(images=[tmp_path / 'x.png'], out=tmp_path / 'out') | options
    with pytest.raises(error, match=message):
        draw_features(checkpoint, **arguments)
