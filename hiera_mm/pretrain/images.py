"""Images without labels: any folder of them, and the crops that pretraining sees."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import DATASETS, TRANSFORMS
from mmengine.structures import BaseDataElement

from ..errors import DataError
from ..network.trunk import UNIT_PIXELS

UNUSABLE = 'unusable, and left out'
SMALL = 'smaller than a mask unit, and enlarged'


@DATASETS.register_module()
class UnlabelledImages(BaseDataset):
    """Every image in a folder and the folders below it.

    An image that cannot be used gives way to another one, drawn at random, and one smaller than a
    mask unit is taken as the pipeline makes it. Samples tell of both, and
    :class:`~hiera_mm.pretrain.hooks.ImageProblemsHook` reports them.

    Args:
        data_root: The folder.
        in_channels: Channels of the images; those with others are left out.
        pipeline: Transforms of a dict: the first loads ``img_path`` as ``img``, an array
            ``(H, W, C)`` or ``(H, W)``, the others change it, so that a batch has one size.
        max_refetch: How many images in a row may be left out before something else must be wrong.
        **options: As for mmengine's ``BaseDataset``.

    Raises:
        DataError: If there is no such folder, or no image in it.
    """

    def __init__(
        self,
        data_root: str,
        pipeline: Sequence[Any] = ({'type': 'LoadImageFromFile'},),
        *,
        in_channels: int = 3,
        max_refetch: int = 100,
        **options: Any,
    ) -> None:
        import mmcv.transforms  # noqa: F401  registers what pipelines are made of

        self.in_channels = in_channels
        self._problems: list[tuple[str, str, str]] = []
        super().__init__(data_root=data_root, pipeline=pipeline, max_refetch=max_refetch, **options)

    def load_data_list(self) -> list[dict[str, str]]:
        """Return the path of each image, sorted."""
        from ..engine.inference import IMAGE_ENDINGS

        root = Path(self.data_prefix['img_path'])
        if not root.is_dir():
            missing = 'is a file; name its folder' if root.is_file() else 'does not exist'
            raise DataError(f'The folder of images, {root.absolute()}, {missing}.')
        images, others = [], Counter()
        for path in _files(root):
            ending = Path(path).suffix.lower()
            if ending in IMAGE_ENDINGS:
                images.append(path)
            else:
                others[ending or 'no ending'] += 1
        kinds = ', '.join(f'{count} {ending}' for ending, count in others.most_common(5))
        endings = ', '.join(IMAGE_ENDINGS)
        if not images:
            raise DataError(
                f'{root.absolute()} and the folders below it have no images ({endings}); '
                f'there are {"files of other kinds: " + kinds if others else "no files"}.'
            )
        text = f'{len(images)} images in {root}'
        if others:
            text += f'; {others.total()} other files are left out ({kinds}), as not of {endings}'
        print_log(text, logger='current')
        return [{'img_path': path} for path in sorted(images)]

    def prepare_data(self, idx: int) -> dict[str, Any] | None:
        """Return a sample: ``inputs``, ``(C, H, W)``, and what is known of it; None if unusable.

        Raises:
            DataError: If too many images in a row are unusable.
        """
        info = self.get_data_info(idx)
        path = info['img_path']
        load, *others = self.pipeline.transforms
        try:
            results = load(info)
            channels = 1 if results['img'].ndim == 2 else results['img'].shape[2]
            if channels != self.in_channels:
                raise ValueError(f'{channels} channels instead of {self.in_channels}')
        except Exception as error:  # decoders raise anything
            reason = ' '.join(f'{type(error).__name__}: {error}'.split())
            self._problems.append((path, UNUSABLE, reason))
            if len(self._problems) > self.max_refetch:
                raise DataError(
                    f'{len(self._problems)} images, one after the other, were unusable, the last '
                    f'one {path}: {reason}. If it is meant, raise max_refetch of the data set.'
                ) from error
            return None
        for transform in others:
            results = transform(results)
        image = results['img']
        size = results.get('ori_shape', image.shape)[:2]
        if min(size) < UNIT_PIXELS:
            self._problems.append((path, SMALL, f'{size[0]} pixels high, {size[1]} wide'))
        image = image[..., None] if image.ndim == 2 else image
        sample = BaseDataElement(metainfo={'img_path': path, 'problems': self._problems})
        self._problems = []
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return {'inputs': pixels, 'data_samples': sample}


def _files(root: Path) -> Iterator[str]:
    """Yield the files below a folder, links followed once, hidden ones left out."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(place)
        folders[:] = [name for name in folders if not name.startswith('.')]
        yield from (f'{folder}/{name}' for name in files if not name.startswith('.'))


@TRANSFORMS.register_module()
class RandomAreaCrop:
    """Cuts out a part of random area and aspect ratio and resizes it.

    It is torchvision's RandomResizedCrop, a name that others give to transforms of their own.

    Args:
        scale: Side of the result in pixels, or width and height.
        crop_ratio_range: Least and largest share of the image's area.
        aspect_ratio_range: Least and largest aspect ratio, width by height.
    """

    def __init__(
        self,
        scale: int | Sequence[int],
        crop_ratio_range: Sequence[float] = (0.2, 1.0),
        aspect_ratio_range: Sequence[float] = (3 / 4, 4 / 3),
    ) -> None:
        width, height = (scale, scale) if isinstance(scale, int) else scale
        self.size = [height, width]
        self.crop_ratio_range = list(crop_ratio_range)
        self.aspect_ratio_range = list(aspect_ratio_range)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replace ``img``, an array ``(H, W, C)`` or ``(H, W)``, by the resized part."""
        from torchvision.transforms import InterpolationMode, RandomResizedCrop
        from torchvision.transforms.v2 import functional

        image = results['img']
        if image.dtype != np.uint8:  # torch resizes no other whole numbers
            image = image.astype(np.float32)
        image = torch.from_numpy(image.reshape(*image.shape[:2], -1)).permute(2, 0, 1)
        part = RandomResizedCrop.get_params(image, self.crop_ratio_range, self.aspect_ratio_range)
        image = functional.resized_crop(image, *part, self.size, InterpolationMode.BICUBIC)
        results['img'] = image.permute(1, 2, 0).numpy()
        results['img_shape'] = tuple(self.size)
        return results
