"""What a pretraining shows: reconstructions while it runs, and the images it could not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import Tensor

from ..errors import listing
from ..network.trunk import UNIT_PIXELS
from .mae import SIDE, MAEOutput, grid_of, mean_and_deviation, patches, spread, unpatch

_GREY = 127


class ReconstructionHook(Hook):
    """Draws images of the current batch: as they are, masked, and with what is predicted.

    The pictures go to the visualizer as ``reconstruction``: with the usual backend into
    ``vis_data/vis_image`` of the run's folder, with others into their trackers.

    Args:
        interval: Iterations between two pictures; there is one after the first and after
            the last iteration too.
        num_images: Rows of a picture.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 500, num_images: int = 4) -> None:
        self.interval = interval
        self.num_images = num_images

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draw, if it is time; the same units are masked every time, and no generator moves."""
        from ..engine.loops import kept_random_state

        ends = runner.iter in (0, runner.max_iters - 1)
        if not ends and not self.every_n_train_iters(runner, self.interval):
            return
        inner = runner.model.module if is_model_wrapper(runner.model) else runner.model
        inputs = data_batch['inputs'][: self.num_images]
        images = inner.data_preprocessor({'inputs': inputs})['inputs']
        # Every process takes part, as each may hold only a shard of the model.
        eager = torch.compiler.set_stance('force_eager')  # nothing is compiled for pictures alone
        with eager, kept_random_state(), torch.no_grad():
            torch.manual_seed(0)
            runner.model.eval()
            output = runner.model(images, mode='predict')
            runner.model.train()
        if is_main_process():
            pictures = draw(images, output, inner.data_preprocessor)
            runner.visualizer.add_image('reconstruction', pictures, step=runner.iter + 1)


def reconstruct(images: Tensor, output: MAEOutput) -> Tensor:
    """Put predictions in the place of what was masked.

    The network predicts pixels less the mean of their patch, by their deviation; both are taken
    from the image, which a person may look at and the network may not.

    Args:
        images: What the network was given, ``(B, C, H, W)``.
        output: What it made of them.

    Returns:
        Images of the same shape.
    """
    grid = grid_of(images)
    filled = patches(images).clone()
    masked = ~spread(output.mask, grid, SIDE).flatten(1)
    mean, deviation = mean_and_deviation(filled[masked])
    predictions = output.predictions.flatten(0, 1).to(filled.dtype)
    filled[masked] = predictions * deviation + mean
    return unpatch(filled, grid)


def draw(images: Tensor, output: MAEOutput, normalised_by: Any = None) -> np.ndarray:
    """Draw each image in a row: as it is, with grey for what was masked, and reconstructed.

    Args:
        images: What the network was given, ``(B, C, H, W)``.
        output: What it made of them.
        normalised_by: The data preprocessor, whose ``mean`` and ``std`` are undone if it has any.

    Returns:
        An RGB picture ``(B * H, 3 * W, 3)`` of 8 bits. Images of one channel are grey, of more than
        three the first three are drawn.
    """
    hidden = ~spread(output.mask, grid_of(images), UNIT_PIXELS).unsqueeze(1)
    panels = torch.cat([images, images, reconstruct(images, output)], dim=3).float()
    if (std := getattr(normalised_by, 'std', None)) is not None:
        images, panels = (x * std + normalised_by.mean for x in (images, panels))
    if std is None or images.amin() < -1 or images.amax() > 256:  # no pixels of 8 bits
        low, high = images.amin(), images.amax()
        panels = (panels - low) / (high - low).clamp(min=1e-6) * 255
    width = images.shape[3]
    panels[..., width : 2 * width].masked_fill_(hidden, _GREY)
    panels = panels[:, :3] if panels.shape[1] >= 3 else panels[:, :1].expand(-1, 3, -1, -1)
    panels = panels.round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    return panels.flatten(0, 1).cpu().numpy()


class ImageProblemsHook(Hook):
    """Tells of images that are unusable or very small: the first at once, all at the end.

    The first is that of the first process. Each process adds what it finds, with the reason, to
    ``image_problems.txt`` in the work folder.
    """

    def before_train(self, runner: Any) -> None:
        """Begin anew."""
        self.file = Path(runner.work_dir) / 'image_problems.txt'
        self.found: dict[str, dict[str, str]] = {}

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Collect what the samples tell: by the kind of problem, paths and details."""
        for sample in data_batch.get('data_samples', ()):
            for path, kind, detail in sample.get('problems', ()):
                if kind not in self.found:
                    runner.logger.warning(
                        f'Image {path} is {kind} ({detail}). All such images are named at the end.'
                    )
                if path not in self.found.setdefault(kind, {}):
                    with self.file.open('a', encoding='utf-8') as file:  # the run may not end
                        file.write(f'{path}: {kind}: {detail}\n')
                self.found[kind][path] = detail

    def after_train(self, runner: Any) -> None:
        """Report what all processes found."""
        found: dict[str, dict[str, str]] = {}
        for part in all_gather_object(self.found):
            for kind, images in part.items():
                found.setdefault(kind, {}).update(images)
        for kind, images in found.items():
            runner.logger.warning(
                f'Images {kind}: {len(images)} ({listing(sorted(images), 20)}). {self.file} has '
                'the reasons.'
            )
