"""Made-up batches for any detector, tracker or segmenter: pictures of noise with a few objects."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from ..errors import ConfigError
from .configs import RGB, Size, image_channels, loads_masks

BATCH = 2  # norms over a batch need more than one value
OBJECTS = ((8, 8, 72, 60), (40, 30, 120, 110), (20, 70, 60, 120))  # boxes in an image of SIDE
SIDE = 128
IGNORED = 255

Batch = dict[str, Any]


def make_batch(
    model: nn.Module,
    scope: str,
    size: Size,
    *,
    channels: int = RGB,
    masks: bool = True,
    training: bool,
) -> Batch:
    """Make a batch with everything that a model may ask for.

    Args:
        model: The model.
        scope: Its toolbox's scope, ``'mmdet'`` or ``'mmseg'``.
        size: Height and width of the images.
        channels: Their channels.
        masks: Whether their objects have masks; some detectors stumble over masks.
        training: Whether to train on it; some are trained on several views of an image.

    Returns:
        What the data loader would give to the model's data preprocessor: `BATCH` images in
        training, else one.
    """
    preprocessor = type(model.data_preprocessor).__name__
    clip = preprocessor == 'TrackDataPreprocessor'
    # Images are tested one by one, and some operators of mmcv know no other way.
    count = BATCH if training or clip else 1
    noise = np.random.default_rng(0).integers(0, 256, (count, channels, *size), dtype=np.uint8)
    images = list(torch.from_numpy(noise))
    if scope == 'mmseg':
        return _segmentation(model, images)
    samples = [_detection_sample(index, size, masks=masks) for index in range(count)]
    if getattr(model, 'with_rpn', False):
        # It makes its own, and would take these instead, in which QueryInst misses something.
        for sample in samples:
            del sample.proposals
    if clip:
        return _video(images, samples)
    if preprocessor == 'MultiBranchDataPreprocessor' and training:
        return _branches(images, samples)
    return dict(inputs=images, data_samples=samples)


def processed_batch(
    model: nn.Module, cfg: Config, size: Size, *, count: int = 1, training: bool = False
) -> Batch:
    """Make a batch as a config's model gets it: normalised, and on its device.

    Args:
        model: The model that will run.
        cfg: Its config.
        size: Height and width of the images.
        count: Number of images: 1, or 2 in training.
        training: Whether to train on it.

    Returns:
        Keyword arguments for the model: ``inputs`` and ``data_samples``.

    Raises:
        ConfigError: If the model takes something else than a batch of images.
    """
    channels, masks = image_channels(cfg.model), loads_masks(cfg)
    batch = make_batch(
        model, cfg.default_scope, size, channels=channels, masks=masks, training=training
    )
    images = batch['inputs']
    if not isinstance(images, list) or images[0].ndim != 3:
        raise ConfigError(
            f'{cfg.filename}: a {type(model).__name__} takes several views or frames at once; the '
            'cost of models that take single images can be measured.'
        )
    batch = {key: values[:count] for key, values in batch.items()}
    return model.data_preprocessor(batch, training=training)


def _meta(index: int, size: Size) -> dict[str, Any]:
    shapes = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
    return dict(
        dict.fromkeys(shapes, size),
        img_id=index,
        img_path=f'{index}.jpg',
        scale_factor=(1.0, 1.0),
        flip=False,
        flip_direction=None,
        border=np.array([0, size[0], 0, size[1]]),  # of the centre-net family's crops
    )


def _detection_sample(index: int, size: Size, *, masks: bool) -> Any:
    """Return a sample with boxes, a semantic map, proposals, and nothing to ignore."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    side = min(size)
    boxes = torch.tensor(OBJECTS, dtype=torch.float32) * (side / SIDE)
    bitmaps = np.zeros((len(boxes), *size), np.uint8)
    semantic = np.full((1, *size), IGNORED, np.uint8)
    for bitmap, (x1, y1, x2, y2) in zip(bitmaps, boxes.int().tolist(), strict=True):
        bitmap[y1:y2, x1:x2] = 1
        semantic[0, y1:y2, x1:x2] = 0
    semantic[0, : side // 16] = 0
    sample = DetDataSample(metainfo=_meta(index, size))
    sample.gt_instances = InstanceData(
        bboxes=boxes,
        labels=torch.zeros(len(boxes), dtype=torch.long),
        instances_ids=torch.arange(len(boxes)),
    )
    sample.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
    )
    if masks:
        sample.gt_instances.masks = BitmapMasks(bitmaps, *size)
        sample.ignored_instances.masks = BitmapMasks(bitmaps[:0], *size)
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

    height, width = images[0].shape[-2:]
    heads = [getattr(model, name, None) for name in ('decode_head', 'auxiliary_head')]
    classes = [
        getattr(head, 'num_classes', None) or 2
        for owner in heads
        for head in (owner if isinstance(owner, nn.ModuleList) else [owner])
    ]
    labels = np.zeros((1, height, width), np.int64)
    labels[0, height // 4 : height // 2] = min(1, *(number - 1 for number in classes))
    labels[0, : height // 16] = IGNORED
    samples = []
    for index in range(len(images)):
        meta = _meta(index, (height, width))
        sample = SegDataSample(metainfo={**meta, 'reduce_zero_label': False})
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels))
        sample.gt_edge_map = PixelData(data=torch.from_numpy((labels == 1).astype(np.int64)))
        sample.gt_depth_map = PixelData(data=torch.rand(1, height, width) * 5 + 1)
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)
