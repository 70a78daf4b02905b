"""Made-up batches for any detector, tracker or segmenter: pictures of noise with a few objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

BATCH = 2  # norms over a batch need more than one value
SIDE = 128
OBJECTS = ((8, 8, 72, 60), (40, 30, 120, 110), (20, 70, 60, 120))  # boxes, for SIDE
FRAMES = 2

Batch = dict[str, Any]


def make_batch(model: nn.Module, scope: str, side: int = SIDE, *, training: bool = True) -> Batch:
    """Make a batch with everything that a model may ask for.

    Args:
        model: The model.
        scope: Its toolbox's scope, ``'mmdet'`` or ``'mmseg'``.
        side: Height and width of the images, in pixels.
        training: Whether to train on it; some are trained on several views of an image.

    Returns:
        What the data loader would give to the model's data preprocessor.
    """
    if scope == 'mmseg':
        return _segmentation(model, side)
    kind = type(model.data_preprocessor).__name__
    if kind == 'TrackDataPreprocessor':
        return _video(side)
    if kind == 'MultiBranchDataPreprocessor' and training:
        return _branches(side)
    return _detection(side)


def _images(side: int, count: int = BATCH) -> list[Tensor]:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    return list(torch.from_numpy(noise))


def _meta(index: int, side: int) -> dict[str, Any]:
    return dict(
        img_id=index,
        img_path=f'{index}.jpg',
        img_shape=(side, side),
        ori_shape=(side, side),
        batch_input_shape=(side, side),
        pad_shape=(side, side),
        scale_factor=(1.0, 1.0),
        flip=False,
        flip_direction=None,
        border=np.array([0, side, 0, side]),  # of the centre-net family's crops
    )


def _detection(side: int) -> Batch:
    samples = [_detection_sample(index, side) for index in range(BATCH)]
    return dict(inputs=_images(side), data_samples=samples)


def _detection_sample(index: int, side: int) -> Any:
    """Return a sample with boxes, masks, a semantic map, proposals, and nothing to ignore."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    boxes = torch.tensor(OBJECTS, dtype=torch.float32) * (side / SIDE)
    labels = torch.zeros(len(boxes), dtype=torch.long)
    masks = np.zeros((len(boxes), side, side), np.uint8)
    semantic = np.full((1, side, side), 255, np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
        semantic[0, y1:y2, x1:x2] = 0
    semantic[0, : side // 16] = 0
    sample = DetDataSample(metainfo=_meta(index, side))
    sample.gt_instances = InstanceData(
        bboxes=boxes,
        labels=labels,
        masks=BitmapMasks(masks, side, side),
        instances_ids=torch.arange(len(boxes)),
    )
    sample.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.long),
        masks=BitmapMasks(np.zeros((0, side, side), np.uint8), side, side),
    )
    sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(semantic))
    sample.proposals = InstanceData(bboxes=boxes.clone(), scores=torch.ones(len(boxes)))
    return sample


def _video(side: int) -> Batch:
    """Return one clip of two frames, the first of which is the key frame."""
    from mmdet.structures import TrackDataSample

    clip = TrackDataSample()
    clip.video_data_samples = [_detection_sample(index, side) for index in range(FRAMES)]
    for index, frame in enumerate(clip.video_data_samples):
        frame.set_metainfo(dict(frame_id=index, is_video_data=True, video_length=FRAMES))
    clip.set_metainfo(dict(key_frames_inds=[0], ref_frames_inds=[1], ori_video_length=FRAMES))
    return dict(inputs=[torch.stack(_images(side, FRAMES))], data_samples=[clip])


def _branches(side: int) -> Batch:
    """Return a labelled image, and two without labels that a teacher and a student see."""
    branches = {'sup': 1, 'unsup_teacher': 2, 'unsup_student': 2}
    images: dict[str, list[Tensor | None]] = {}
    samples: dict[str, list[Any]] = {}
    for name, count in branches.items():
        # Each place in the batch belongs to one branch alone.
        blank = [None] * (3 - count)
        present = [_detection_sample(index, side) for index in range(count)]
        for sample in present:
            sample.set_metainfo(dict(homography_matrix=np.eye(3, dtype=np.float32)))
        images[name] = (
            [*_images(side, count), *blank] if name == 'sup' else [*blank, *_images(side, count)]
        )
        samples[name] = [*present, *blank] if name == 'sup' else [*blank, *present]
    return dict(inputs=images, data_samples=samples)


def _segmentation(model: nn.Module, side: int) -> Batch:
    """Return images with label, edge and depth maps."""
    from mmseg.structures import SegDataSample

    classes = min([getattr(head, 'num_classes', None) or 2 for head in _heads(model)], default=2)
    labels = np.zeros((1, side, side), np.int64)
    labels[0, side // 4 : side // 2] = min(1, classes - 1)
    labels[0, : side // 16] = 255
    samples = []
    for index in range(BATCH):
        sample = SegDataSample(metainfo={**_meta(index, side), 'reduce_zero_label': False})
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels))
        sample.gt_edge_map = PixelData(data=torch.from_numpy((labels == 1).astype(np.int64)))
        sample.gt_depth_map = PixelData(data=torch.rand(1, side, side) * 5 + 1)
        samples.append(sample)
    return dict(inputs=_images(side), data_samples=samples)


def _heads(model: nn.Module) -> list[nn.Module]:
    heads: list[nn.Module] = []
    for name in ('decode_head', 'auxiliary_head'):
        head = getattr(model, name, None)
        if isinstance(head, nn.ModuleList):
            heads += head
        elif head is not None:
            heads.append(head)
    return heads
