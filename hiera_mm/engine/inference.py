"""Drawing what a trained detector or segmenter sees in a person's own images."""

from __future__ import annotations

import mimetypes
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import MODELS, VISUALIZERS, init_default_scope
from mmengine.utils import track_iter_progress
from torch import nn

from ..errors import ConfigError, DataError, listing
from ..weights.reading import read_checkpoint
from .checkpoints import make_loading_safe
from .config import check_scope, load_config, resolve_arch, type_name, warn
from .fit import require_complete, state_dict_of
from .launch import make_folder, to_device

_VISUALIZERS = {'mmdet': 'DetLocalVisualizer', 'mmseg': 'SegLocalVisualizer'}

IMAGE_ENDINGS = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')


@dataclass(frozen=True)
class Predictions:
    """What came of a set of images.

    Attributes:
        drawings: Files that were written.
        failed: Images that could not be read or drawn, with the reason.
    """

    drawings: list[Path]
    failed: dict[Path, str]

    def report(self, out: str | Path, what: str = 'drawings') -> int:
        """Print how many there are in the folder `out`, and what failed.

        Returns:
            The exit code of a tool: 1 if an image failed.
        """
        print(f'\n{len(self.drawings)} {what} in {out}')
        for path, reason in self.failed.items():
            print(f'Could not be drawn: {path}: {reason}', file=sys.stderr)
        return 1 if self.failed else 0


def predict(
    config: str | Path,
    checkpoint: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    device: str | None = None,
    score_thr: float = 0.3,
    cfg_options: Mapping[str, Any] | Sequence[str] | None = None,
) -> Predictions:
    """Run a model of mmdet or mmseg on images and save drawings under the images' own names.

    Args:
        config: The config that the model was trained with.
        checkpoint: Its weights.
        source: An image, or a folder of images.
        out: Folder for the drawings; made if need be.
        device: Where to run, e.g. ``'cpu'`` or ``'cuda:0'``; by default a GPU if there is one.
        score_thr: Detections with a lower score are not drawn. Without effect on segmenters.
        cfg_options: Values of the config to override, by dotted key or as ``'KEY=VALUE'``.

    Returns:
        The drawings, and the images that failed.

    Raises:
        ConfigError: If config, device or `out` is unusable.
        DataError: If there are no images.
        CheckpointError: If the checkpoint is unusable or belongs to another model.
    """
    make_loading_safe()
    cfg = load_config(config, needs=('model', 'test_dataloader'), cfg_options=cfg_options)
    check_scope(cfg, config)
    images = find_images(source)
    folder = make_folder(out)
    if images[0].parent.resolve() == folder.resolve():
        raise ConfigError(f'--out {out} is where the images are; drawings would replace them.')
    resolve_arch(cfg, checkpoint)
    model = _load_model(cfg, checkpoint, device)
    usual = dict(type=_VISUALIZERS[cfg.default_scope], name='visualizer')
    drawing = cfg.get('visualizer') or usual
    visualizer = VISUALIZERS.build({**drawing, 'vis_backends': None})
    visualizer.dataset_meta = model.dataset_meta
    threshold = {'pred_score_thr': score_thr} if cfg.default_scope == 'mmdet' else {}
    found = Predictions([], {})
    for path in track_iter_progress(images):
        drawing = folder / path.name
        try:
            visualizer.add_datasample(
                path.name,
                read_image(path),
                data_sample=_infer(model, str(path)),
                draw_gt=False,
                out_file=str(drawing),
                **threshold,
            )
            found.drawings.append(drawing)
        except (cv2.error, OSError) as error:
            found.failed[path] = str(error)
    return found


def find_images(source: str | Path) -> list[Path]:
    """Return the image named by `source`, or the images in the folder of that name, sorted.

    Raises:
        DataError: If there is none.
    """
    source = Path(source)
    endings = ', '.join(IMAGE_ENDINGS)
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DataError(f'No image or folder {source} (looked for {source.absolute()}).')
    files = sorted(file for file in source.iterdir() if file.is_file())
    images = [file for file in files if file.suffix.lower() in IMAGE_ENDINGS]
    if not images:
        raise DataError(f'The folder {source.absolute()} has no images ({endings}) directly in it.')
    others = [
        file.name for file in files if file.suffix.lower() not in IMAGE_ENDINGS and _is_image(file)
    ]
    if others:
        warn(
            f'Left out, as of a folder only {endings} are taken: {listing(others)}. '
            'To try one, name the file.'
        )
    return images


def _is_image(file: Path) -> bool:
    """Whether the name of a file is that of an image of any kind."""
    return (mimetypes.guess_type(file.name)[0] or '').startswith('image/')


def _load_model(cfg: Config, checkpoint: str | Path, device: str | None = None) -> nn.Module:
    """Build the model of a config, fill it with a checkpoint, and make it ready to predict.

    It has the `cfg` and `dataset_meta` that the toolboxes' inference functions expect.
    """
    weights = read_checkpoint(checkpoint)
    init_default_scope(cfg.default_scope)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    require_complete(model, weights, checkpoint)
    model.load_state_dict(state_dict_of(weights, checkpoint), strict=False)
    dataset = cfg.test_dataloader.dataset
    meta = weights.get('meta', {}).get('dataset_meta') or dataset.get('metainfo', {})
    if not meta.get('classes'):
        raise ConfigError(
            f'Neither {checkpoint} nor the metainfo of test_dataloader.dataset names the classes.'
        )
    model.dataset_meta = {'palette': 'random', **meta}
    model.cfg = cfg
    # mmseg looks there, and knows what it has to leave out by text alone.
    steps = cfg.get('test_pipeline') or dataset.get('pipeline') or []
    cfg.test_pipeline = [step for step in steps if type_name(step) != 'LoadAnnotations']
    return to_device(model, device).eval()


def read_image(path: Path) -> np.ndarray:
    """Read an image as RGB; raise `OSError` if that cannot be done."""
    try:
        image = mmcv.imread(str(path))
    except cv2.error:  # of an empty file
        image = None
    if image is None:
        raise OSError('this is no image, or a damaged one')
    return mmcv.bgr2rgb(image)


def _infer(model: nn.Module, image: str) -> Any:
    """Return what `model` predicts for an image file, through its toolbox's own function."""
    if model.cfg.default_scope == 'mmdet':
        from mmdet.apis import inference_detector as infer
    else:
        from mmseg.apis import inference_model as infer
    with torch.no_grad():
        return infer(model, image)
