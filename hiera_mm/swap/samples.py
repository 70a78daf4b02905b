"""Made-up batches for any detector, tracker or segmenter: pictures of noise with a few objects."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

BATCH = 2  # norms over a batch need more than one value
SIDE = 128
OBJECTS = ((8, 8, 72, 60), (40, 30, 120, 110), (20, 70, 60, 120))  # boxes, for SIDE

Batch = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """What the images of a batch are like.

    Attributes:
        channels: Their channels.
        masks: Whether their objects have masks; some detectors stumble over masks.
        side: Height and width in pixels.
    """

    channels: int = 3
    masks: bool = True
    side: int = SIDE


def make_batch(model: nn.Module, scope: str, kind: Kind, *, training: bool) -> Batch:
    """Make a batch with everything that a model may ask for.

    Args:
        model: The model.
        scope: Its toolbox's scope, ``'mmdet'`` or ``'mmseg'``.
        kind: What the images are like.
        training: Whether to train on it; some are trained on several views of an image.

    Returns:
        What the data loader would give to the model's data preprocessor.
    """
    rng = np.random.default_rng(0)
    preprocessor = type(model.data_preprocessor).__name__
    clip = preprocessor == 'TrackDataPreprocessor'
    # Images are tested one by one, and some operators of mmcv know no other way.
    count = BATCH if training or clip else 1
    noise = rng.integers(0, 256, (count, kind.channels, kind.side, kind.side), dtype=np.uint8)
    images = list(torch.from_numpy(noise))
    if scope == 'mmseg':
        return _segmentation(model, images)
    samples = [_detection_sample(index, kind) for index in range(count)]
    if getattr(model, 'with_rpn', False):
        # It makes its own, and would take these instead, in which QueryInst misses something.
        for sample in samples:
            del sample.proposals
    if clip:
        return _video(images, samples)
    if preprocessor == 'MultiBranchDataPreprocessor' and training:
        return _branches(images, samples)
    return dict(inputs=images, data_samples=samples)


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


def _detection_sample(index: int, kind: Kind) -> Any:
    """Return a sample with boxes, a semantic map, proposals, and nothing to ignore."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    side = kind.side
    boxes = torch.tensor(OBJECTS, dtype=torch.float32) * (side / SIDE)
    bitmaps = np.zeros((len(boxes), side, side), np.uint8)
    semantic = np.full((1, side, side), 255, np.uint8)
    for bitmap, (x1, y1, x2, y2) in zip(bitmaps, boxes.int().tolist(), strict=True):
        bitmap[y1:y2, x1:x2] = 1
        semantic[0, y1:y2, x1:x2] = 0
    semantic[0, : side // 16] = 0
    sample = DetDataSample(metainfo=_meta(index, side))
    sample.gt_instances = InstanceData(
        bboxes=boxes,
        labels=torch.zeros(len(boxes), dtype=torch.long),
        instances_ids=torch.arange(len(boxes)),
    )
    sample.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
    )
    if kind.masks:
        sample.gt_instances.masks = BitmapMasks(bitmaps, side, side)
        sample.ignored_instances.masks = BitmapMasks(bitmaps[:0], side, side)
    sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(semantic))
    sample.proposals = InstanceData(bboxes=boxes.clone(), scores=torch.ones(len(boxes)))
    return sample


def _video(images: list[Tensor], frames: list[Any]) -> Batch:
    """Return one clip whose first frame is the key frame."""
    from mmdet.structures import TrackDataSample

    clip = TrackDataSample()
    for index, frame in enumerate(frames):
        frame.set_metainfo(dict(frame_id=index, is_video_data=True, video_length=len(frames)))
    clip.video_data_samples = frames
    clip.set_metainfo(dict(key_frames_inds=[0], ref_frames_inds=[1], ori_video_length=len(frames)))
    return dict(inputs=[torch.stack(images)], data_samples=[clip])


def _branches(images: list[Tensor], samples: list[Any]) -> Batch:
    """Return labelled images, and as many without labels that a teacher and a student see."""
    for sample in samples:
        sample.set_metainfo(dict(homography_matrix=np.eye(3, dtype=np.float32)))
    blank = [None] * len(images)  # each place in the batch belongs to one of the two kinds
    inputs: dict[str, list[Any]] = {'sup': [*images, *blank]}
    targets: dict[str, list[Any]] = {'sup': [*samples, *blank]}
    for name in ('unsup_teacher', 'unsup_student'):
        inputs[name] = [*blank, *images]
        targets[name] = [*blank, *copy.deepcopy(samples)]
    return dict(inputs=inputs, data_samples=targets)


def _segmentation(model: nn.Module, images: list[Tensor]) -> Batch:
    """Return images with label, edge and depth maps."""
    from mmseg.structures import SegDataSample

    side = images[0].shape[-1]
    classes = min([getattr(head, 'num_classes', None) or 2 for head in _heads(model)], default=2)
    labels = np.zeros((1, side, side), np.int64)
    labels[0, side // 4 : side // 2] = min(1, classes - 1)
    labels[0, : side // 16] = 255
    samples = []
    for index in range(len(images)):
        sample = SegDataSample(metainfo={**_meta(index, side), 'reduce_zero_label': False})
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels))
        sample.gt_edge_map = PixelData(data=torch.from_numpy((labels == 1).astype(np.int64)))
        sample.gt_depth_map = PixelData(data=torch.rand(1, side, side) * 5 + 1)
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


def _heads(model: nn.Module) -> list[nn.Module]:
    heads: list[nn.Module] = []
    for name in ('decode_head', 'auxiliary_head'):
        head = getattr(model, name, None)
        if isinstance(head, nn.ModuleList):
            heads += head
        elif head is not None:
            heads.append(head)
    return heads
