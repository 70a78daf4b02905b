"""Hiera's masked autoencoder (arXiv 2306.00989, section 3 and appendix A.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from .. import weights
from ..backbone import Hiera, pretrained_by, variant_of
from ..errors import CheckpointError, ConfigError, UserError, listing
from ..network.block import NORM_EPS, Block
from ..network.layout import MASK_UNIT, to_image, to_units
from ..network.position import PRETRAIN_GRID, resize_bicubic
from ..network.trunk import UNIT_PIXELS
from ..weights.loading import nonfinite

Q_POOL = 2
SIDE = MASK_UNIT >> Q_POOL
"""Rows and columns of tokens of a mask unit in the last two stages, and in the decoder."""
PATCH = UNIT_PIXELS // SIDE
"""Side in pixels of the patch that a token of the decoder predicts."""


class MAEOutput(NamedTuple):
    """What a masked autoencoder makes of a batch of images.

    Attributes:
        loss: Mean squared error of the predictions, at least in float32.
        predictions: Pixels of the masked patches of 16x16, those of each image row by row,
            ``(B, masked patches, C * 256)``; a patch by channels, then rows, then columns.
        labels: What they should be, of the same shape: the pixels less their patch's mean, by
            their standard deviation.
        mask: True for each mask unit that was visible, ``(B, units)``, row by row.
    """

    loss: Tensor
    predictions: Tensor
    labels: Tensor
    mask: Tensor


@MODELS.register_module()
class HieraMAE(BaseModel):
    """Pretrains a Hiera on images without labels: it sees few mask units and predicts the others.

    Masked units are deleted, so the encoder's cost falls with them. Parameters have the names of
    the release's ``MaskedAutoencoderHiera``, those of the encoder after ``backbone.``.

    Args:
        backbone: The :class:`~hiera_mm.backbone.Hiera` to pretrain, as a config gives it. Three
            things differ while it is pretrained, and no parameter does: the last stage begins
            without query pooling; windows of several mask units become global attention over the
            visible ones; nothing comes after the stages (norms, projections, relative position).
        decoder_embed_dim: Channels of the decoder.
        decoder_depth: Blocks of the decoder.
        decoder_num_heads: Attention heads of the decoder; they divide its channels.
        mask_ratio: Share of the mask units that are deleted, in (0, 1).
        data_preprocessor: As for mmengine's ``BaseModel``; by default images are only stacked.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` for the weights of encoder and
            decoder, from anything that :func:`hiera_mm.weights.load` reads. If there is no decoder
            in it, the decoder starts anew. For the encoder's alone, use ``backbone.init_cfg``.

    Raises:
        ConfigError: If an argument has a wrong type or an impossible value.
    """

    def __init__(
        self,
        backbone: Mapping[str, object],
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        mask_ratio: float = 0.6,
        data_preprocessor: Mapping[str, object] | None = None,
        init_cfg: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(data_preprocessor or dict(type='ImgDataPreprocessor'), init_cfg)
        decoder = (decoder_embed_dim, decoder_depth, decoder_num_heads)
        if not all(isinstance(n, int) and n > 0 for n in decoder) or decoder[0] % decoder[2]:
            raise ConfigError(
                'decoder_embed_dim, decoder_depth and decoder_num_heads must be whole numbers '
                f'above 0, the first a multiple of the last; got {decoder}'
            )
        self.mask_ratio = _checked(mask_ratio)
        self.backbone = _build_encoder(backbone, init_cfg)
        dims = self.backbone.variant.dims
        self.multi_scale_fusion_heads = nn.ModuleList(
            nn.Conv2d(dims[stage], dims[-1], kernel_size=side, stride=side)
            for stage, side in enumerate(MASK_UNIT // SIDE >> stage for stage in range(Q_POOL))
        )
        self.encoder_norm = nn.LayerNorm(dims[-1], eps=NORM_EPS)
        self.decoder_embed = nn.Linear(dims[-1], decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder_embed_dim))
        self.decoder_grid = tuple(side * SIDE // MASK_UNIT for side in PRETRAIN_GRID)
        tokens = self.decoder_grid[0] * self.decoder_grid[1]
        self.decoder_pos_embed = nn.Parameter(torch.empty(1, tokens, decoder_embed_dim))
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_embed_dim, decoder_embed_dim, decoder_num_heads, window=0, pool=False)
            for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_embed_dim, eps=NORM_EPS)
        self.decoder_pred = nn.Linear(decoder_embed_dim, PATCH**2 * self.backbone.in_channels)
        self.reset_parameters()

    def forward(
        self, inputs: Tensor, data_samples: Sequence | None = None, mode: str = 'tensor'
    ) -> dict[str, Tensor] | MAEOutput:
        """Mask a batch of normalised images and predict what was masked, as mmengine asks for it.

        Args:
            inputs: Images ``(B, C, H, W)``.
            data_samples: Not used.
            mode: ``'loss'`` for the loss alone, in a dict; anything else for all there is.
        """
        output = self.forward_mae(inputs)
        return {'loss': output.loss} if mode == 'loss' else output

    def forward_mae(
        self, images: Tensor, mask: Tensor | None = None, mask_ratio: float | None = None
    ) -> MAEOutput:
        """Mask images and predict what was masked.

        Args:
            images: Normalised images ``(B, C, H, W)``; H and W are multiples of 32.
            mask: True for each mask unit that stays visible, ``(B, units)``, row by row; the same
                number in every image. By default the units are drawn at random.
            mask_ratio: Share of units to delete, in (0, 1), where no mask is given; by default the
                model's own.

        Returns:
            Loss, predictions, labels and mask.

        Raises:
            TypeError: If the images are not a floating tensor.
            ValueError: If they are no batch, or have other channels than the backbone.
            ConfigError: If sides are no multiples of 32, the mask does not fit the images, or
                nothing would be visible, or nothing masked.
        """
        self.backbone.check_image(images)
        grid = grid_of(images)
        mask, visible = self.draw_mask(images, mask, mask_ratio)
        tokens = self.encode(images, mask, visible)
        masked = spread(mask, grid, SIDE).flatten(1).byte().argsort(dim=1, stable=True)
        masked = masked[:, : SIDE**2 * (mask.shape[1] - visible.shape[1])]
        predictions = self.decode(tokens, visible, masked, grid)
        labels = take(patches(images), masked)
        mean, deviation = mean_and_deviation(labels)
        labels = (labels - mean) / deviation
        precision = torch.promote_types(images.dtype, torch.float32)
        loss = (predictions.to(precision) - labels.to(precision)).square().mean()
        return MAEOutput(loss, predictions, labels, mask)

    def init_weights(self) -> None:
        """Load what ``init_cfg`` names; without it, initialise the backbone by its own.

        Raises:
            CheckpointError: As :meth:`check_pretrained`.
        """
        source = pretrained_by(self.init_cfg)
        if source is None or self.is_init:
            super().init_weights()
            return
        encoder, decoder, report = self._plan(source)
        self.backbone.load_state_dict(encoder, strict=False)
        self.load_state_dict(decoder, strict=False)
        print_log(str(report), logger='current')
        self.backbone.is_init = self.is_init = True

    def check_pretrained(self) -> None:
        """Find out whether the weights that ``init_cfg`` names will load, and load nothing.

        Raises:
            CheckpointError: As :func:`hiera_mm.weights.load`; also if the file has another decoder.
        """
        source = pretrained_by(self.init_cfg)
        if source is not None:
            self._plan(source)

    def _plan(
        self, source: dict[str, object]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], weights.Report]:
        """Return what is to be loaded into the backbone and into the rest, and a report."""
        plan = weights.plan(self.backbone, **source)
        path = source['source']
        wanted = {
            name: tensor.shape
            for name, tensor in self.named_parameters()
            if not name.startswith('backbone.')
        }
        starts = {name.partition('.')[0] for name in wanted}
        found = {name: t for name, t in plan.rest.items() if name.partition('.')[0] in starts}
        nonfinite(found, path, source.get('allow_nonfinite', False))
        others = [
            f'{name} (file {list(found[name].shape) if name in found else "none"}, '
            f'model {list(wanted[name]) if name in wanted else "none"})'
            for name in {**wanted, **found}
            if name not in found or name not in wanted or found[name].shape != wanted[name]
        ]
        if found and others:
            raise CheckpointError(
                f'{path} has another decoder: {listing(others, 4)}. Nothing was loaded. Set '
                "decoder_embed_dim, decoder_depth and the backbone's in_channels as it was "
                'trained, or load its encoder alone: '
                "backbone.init_cfg=dict(type='Pretrained', checkpoint=...)."
            )
        dropped = {
            reason: left
            for reason, names in plan.report.dropped.items()
            if (left := [name for name in names if name not in found])
        }
        report = replace(
            plan.report,
            loaded=[*plan.report.loaded, *found],
            dropped=dropped,
            kept=[*plan.report.kept, *(wanted if not found else ())],
        )
        return plan.tensors, found, report

    def reset_parameters(self) -> None:
        """Draw all weights as the release does for pretraining: not as for training with labels."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        # As if it were a linear layer of all pixels of a patch.
        stem = self.backbone.patch_embed.proj.weight
        rows = nn.init.xavier_uniform_(torch.empty_like(stem.flatten(1)))
        with torch.no_grad():
            stem.copy_(rows.view(stem.shape))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.decoder_pos_embed, std=0.02)

    def draw_mask(
        self, images: Tensor, mask: Tensor | None = None, mask_ratio: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return a mask ``(B, units)``, True where visible, and the visible units of each image.

        How many a drawn mask leaves depends on the shape alone, so that nothing is read back from
        a GPU and a compiled network needs no break. Arguments and errors are those of
        :meth:`forward_mae`; the units, ``(B, visible)``, are in ascending order.
        """
        grid = grid_of(images)
        units = grid[0] * grid[1]
        if mask is None:
            ratio = _checked(self.mask_ratio if mask_ratio is None else mask_ratio)
            visible = int(units * (1 - ratio) + 1e-9)  # 5 units * (1 - 0.8) is 0.99...
            noise = torch.rand(len(images), units, device=images.device)
            mask = noise.argsort(dim=1).argsort(dim=1) < visible
        else:
            mask = mask.to(images.device, torch.bool)
            if mask.shape != (len(images), units):
                raise ConfigError(
                    f'the mask of {len(images)} images of {grid[0]}x{grid[1]} mask units must have '
                    f'shape ({len(images)}, {units}), got {tuple(mask.shape)}'
                )
            counts = mask.sum(dim=1).unique().tolist()
            if len(counts) > 1:
                raise ConfigError(
                    f'every image must have the same number of visible mask units, got {counts}'
                )
            visible = counts[0]
        if not 0 < visible < units:
            raise ConfigError(
                f'of {units} mask units {visible} would be visible; at least one must be, and one '
                'masked: choose another mask or mask ratio, or larger images'
            )
        return mask, (~mask).byte().argsort(dim=1, stable=True)[:, :visible]

    def encode(self, images: Tensor, mask: Tensor, visible: Tensor) -> Tensor:
        """Return the features of the visible units, fused from all stages.

        Args:
            images: Normalised images ``(B, C, H, W)``.
            mask: True for each visible unit, ``(B, units)``.
            visible: Their numbers, ``(B, visible)``.

        Returns:
            ``(B, visible, 4, C)``, units in the order of ``visible``.
        """
        grid = grid_of(images)
        pixels = spread(mask, grid, UNIT_PIXELS).unsqueeze(1)
        # The 7x7 kernels of the patch embedding reach into units next to their own.
        x = take(self.backbone.embed(images * pixels, grid), visible)
        fused = 0
        row = (1, visible.shape[1])  # the visible units side by side, as one map
        for index, block in enumerate(self.backbone.blocks):
            x = self.backbone.apply_block(block, x, grid)
            stage = self.backbone.stage_after.get(index)
            if stage is not None and stage < Q_POOL:
                head = self.multi_scale_fusion_heads[stage]
                fused = fused + to_units(head(to_image(x, row)), row, SIDE)
        return self.encoder_norm(fused + x)

    def decode(self, x: Tensor, visible: Tensor, masked: Tensor, grid: tuple[int, int]) -> Tensor:
        """Predict patches.

        Attention does not mind the order of tokens, so the visible ones stay in front of the
        others, and only their positions are looked up.

        Args:
            x: Features of the visible units, ``(B, visible, 4, C)``.
            visible: The units they are of, ``(B, visible)``.
            masked: Tokens to predict, counted row by row over the image.
            grid: Rows and columns of units.

        Returns:
            ``(B, masked tokens, C * 256)``.
        """
        rows, columns = grid[0] * SIDE, grid[1] * SIDE
        position = self.decoder_pos_embed.flatten(0, 1).T.unflatten(1, self.decoder_grid)
        position = resize_bicubic(position.unsqueeze(0), (rows, columns)).squeeze(0).flatten(1).T
        number = torch.arange(rows * columns, device=x.device).view(1, 1, rows, columns)
        number = to_units(number, grid, SIDE)[0, :, :, 0]  # of each unit's tokens
        x = self.decoder_embed(x).flatten(1, 2)
        x = torch.cat([x, self.mask_token.to(x.dtype).expand(*masked.shape, -1)], dim=1)
        x = x + F.embedding(torch.cat([number[visible].flatten(1), masked], dim=1), position)
        x = x.unsqueeze(1)
        for block in self.decoder_blocks[:-1]:
            x = self.backbone.apply_block(block, x, grid)
        # Nobody reads what the last block would make of the visible tokens.
        x = self.backbone.apply_block(self.decoder_blocks[-1], x, grid, masked.shape[1])
        return self.decoder_pred(self.decoder_norm(x[:, 0]))


def _checked(mask_ratio: float) -> float:
    """Return a mask ratio if it is one."""
    if not isinstance(mask_ratio, int | float) or not 0 < mask_ratio < 1:
        raise ConfigError(f'mask_ratio must be above 0 and below 1, got {mask_ratio!r}')
    return mask_ratio


def grid_of(images: Tensor) -> tuple[int, int]:
    """Return rows and columns of the mask units of images."""
    height, width = images.shape[-2:]
    if height % UNIT_PIXELS or width % UNIT_PIXELS:
        raise ConfigError(
            f'images of {height}x{width} pixels are not whole mask units: to pretrain, both sides '
            f'must be multiples of {UNIT_PIXELS} (the scale of the crop in the pipeline sets them)'
        )
    return height // UNIT_PIXELS, width // UNIT_PIXELS


def take(x: Tensor, index: Tensor) -> Tensor:
    """Pick entries of each sample: ``(B, N, ...)`` by ``(B, K)`` gives ``(B, K, ...)``."""
    first = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, (index + first).flatten()).unflatten(0, index.shape)


def spread(mask: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Turn a mask ``(B, units)`` into a map of ``side`` x ``side`` entries for each unit."""
    return mask.unflatten(1, grid).repeat_interleave(side, 1).repeat_interleave(side, 2)


def patches(images: Tensor) -> Tensor:
    """Cut images into patches of 16x16 pixels, ``(B, patches, C * 256)``, row by row."""
    x = images.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
    return x.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def mean_and_deviation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each patch ``(..., pixels)``, as ``(..., 1)``."""
    return x.mean(dim=-1, keepdim=True), (x.var(dim=-1, keepdim=True) + 1e-6).sqrt()


def unpatch(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Undo :func:`patches` for images of ``grid`` mask units."""
    x = x.unflatten(2, (-1, PATCH, PATCH)).unflatten(1, (grid[0] * SIDE, grid[1] * SIDE))
    return x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def _build_encoder(cfg: Mapping[str, object], init_cfg: object) -> Hiera:
    """Build a Hiera for pretraining; ``init_cfg`` is that of the whole."""
    kind = cfg.get('type')
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    if not isinstance(kind, type) or not issubclass(kind, Hiera):
        raise ConfigError(f"HieraMAE needs backbone=dict(type='Hiera', ...), got {cfg}")
    options = dict(cfg)
    try:
        pretrained_by(init_cfg)
        weights_of = options.get('init_cfg') or init_cfg
        variant = variant_of(options.pop('arch', 'tiny'), weights_of)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error
    units = [variant.window_units(stage) for stage in range(len(variant.depths))]
    encoder = replace(variant, q_pool=Q_POOL, window_sizes=(0, 0, 0, 0))
    windows = [encoder.unit_side(stage) if units[stage] == 1 else 0 for stage in range(len(units))]
    left_out = []
    if max(units) > 1:
        left_out.append(f'windows of several mask units ({variant.window_sizes})')
    if options.get('rel_pos'):
        left_out.append('relative position')
    if left_out:
        print_log(
            f'Pretraining leaves out {" and ".join(left_out)}: attention there is global over the '
            'visible units. The weights load into the network with them.',
            logger='current',
        )
    options |= dict(arch=replace(encoder, window_sizes=windows), out_indices=(0, 1, 2, 3))
    options |= dict(out_norm=None, out_strides=None, out_channels=None, rel_pos=None)
    return MODELS.build(options)
