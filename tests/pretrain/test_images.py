"""Folders of images as people have them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from hiera_mm.errors import DataError
from hiera_mm.pretrain import RandomAreaCrop, UnlabelledImages, images
from hiera_mm.pretrain.images import SMALL, UNUSABLE

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomAreaCrop', scale=(96, 64)),
    dict(type='RandomFlip', prob=0.5),
]


def test_all_folders_are_read_and_other_files_named(folder, monkeypatch):
    lines = []
    monkeypatch.setattr(images, 'print_log', lambda line, **_: lines.append(line))
    (folder / 'notes.txt').touch()
    (folder / '.hidden.jpg').touch()
    (folder / 'more' / 'up').symlink_to(folder)
    dataset = UnlabelledImages(str(folder), PIPELINE)
    assert len(dataset) == 8
    assert len(lines) == 1
    assert '8 images' in lines[0]
    assert '1 other files are left out (1 .txt)' in lines[0]
    sample = dataset[0]
    assert sample['inputs'].shape == (3, 64, 96)
    assert sample['inputs'].dtype == torch.uint8
    assert sample['data_samples'].problems == []


def test_pixels_are_those_of_the_file(folder):
    dataset = UnlabelledImages(str(folder), PIPELINE[:1])
    sample = dataset[3]
    image = cv2.imread(sample['data_samples'].img_path)
    assert np.array_equal(sample['inputs'].permute(1, 2, 0), image)


def test_unreadable_images_give_way_and_are_told_of(folder):
    broken = folder / '0_broken.jpg'
    broken.write_bytes(b'no image')
    cv2.imwrite(str(folder / '0_small.png'), np.zeros((20, 50, 3), np.uint8))
    dataset = UnlabelledImages(str(folder), PIPELINE)
    samples = [dataset[index]['data_samples'] for index in range(len(dataset))]
    problems = [problem for sample in samples for problem in sample.problems]
    found = {(path, kind) for path, kind, _ in problems}
    assert found == {(str(broken), UNUSABLE), (str(folder / '0_small.png'), SMALL)}
    assert any('failed to load image' in detail for _, _, detail in problems)


def test_a_folder_of_nothing_but_broken_images_ends(tmp_path):
    (tmp_path / 'a.png').touch()
    dataset = UnlabelledImages(str(tmp_path), PIPELINE)
    with pytest.raises(
        DataError, match=r'101 images, one after the other.*a\.png.*raise max_refetch'
    ):
        dataset[0]


def test_a_fault_of_the_pipeline_is_no_fault_of_the_image(folder):
    dataset = UnlabelledImages(str(folder), [PIPELINE[0], lambda results: 1 / 0])
    with pytest.raises(ZeroDivisionError):
        dataset[0]


def test_images_of_other_channels_are_left_out(folder):
    grey = folder / '0_grey.png'
    cv2.imwrite(str(grey), np.zeros((40, 40), np.uint8))
    pipeline = [dict(PIPELINE[0], color_type='unchanged'), *PIPELINE[1:]]
    dataset = UnlabelledImages(str(folder), pipeline)
    sample = dataset[0]
    assert sample['inputs'].shape[0] == 3
    assert (str(grey), UNUSABLE, 'ValueError: 1 channels instead of 3') in sample[
        'data_samples'
    ].problems
    assert UnlabelledImages(str(folder), pipeline, in_channels=1)[0]['inputs'].shape[0] == 1


def test_folders_without_images(tmp_path):
    with pytest.raises(DataError, match='does not exist'):
        UnlabelledImages(str(tmp_path / 'none'))
    with pytest.raises(DataError, match='there are no files'):
        UnlabelledImages(str(tmp_path))
    (tmp_path / 'a.npy').touch()
    with pytest.raises(DataError, match='is a file; name its folder'):
        UnlabelledImages(str(tmp_path / 'a.npy'))
    with pytest.raises(DataError, match=r'files of other kinds: 1 \.npy'):
        UnlabelledImages(str(tmp_path))


@pytest.mark.parametrize(
    ('shape', 'dtype'),
    [((40, 70, 3), np.uint8), ((70, 40), np.uint8), ((9, 12, 5), np.uint16), ((50, 50, 1), float)],
)
def test_crops_of_any_kind_of_image(shape, dtype):
    """A crop of the whole image is torchvision's resizing of it; the type of bytes stays."""
    from torchvision.transforms.v2.functional import resize

    image = (np.random.default_rng(0).random(shape) * 250).astype(dtype)
    crop = RandomAreaCrop(64, crop_ratio_range=(1, 1), aspect_ratio_range=(1, 1))
    found = crop({'img': image})['img']
    assert found.shape == (64, 64, shape[2] if len(shape) > 2 else 1)
    assert found.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    if shape[0] == shape[1]:
        whole = torch.from_numpy(image).permute(2, 0, 1).float()
        expected = resize(whole, [64, 64], interpolation=3, antialias=True)
        np.testing.assert_allclose(found.transpose(2, 0, 1), expected, atol=1e-3)


def test_crops_keep_to_their_share():
    marked = np.arange(100 * 100, dtype=np.float32).reshape(100, 100)
    crop = RandomAreaCrop(32, crop_ratio_range=(0.2, 0.3))
    for _ in range(20):
        found = crop({'img': marked})['img'][..., 0]
        rows, columns = (found.max(axis) - found.min(axis) for axis in (0, 1))
        area = (rows.max() / 100 + 1) * (columns.max() + 1) / 100**2
        assert 0.15 < area < 0.32
