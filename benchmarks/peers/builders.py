"""Building other projects' models, and asking them for features.

Every function imports its project itself, so that one that is not installed harms no other. A
builder gets the height and width of the images as well: some models take those of one size only.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hiera_mm.network import VARIANTS

Size = tuple[int, int]
"""Height and width of an image in pixels."""


def release(arch: str, size: Size) -> nn.Module:
    """Build the release's supervised model for images of one size."""
    import hiera

    return getattr(hiera, f'hiera_{arch}_224')(input_size=size)


def release_features(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return what the release calls intermediates."""
    return _to_nchw(model(images, return_intermediates=True)[1])


def release_mae(arch: str, size: Size) -> nn.Module:
    """Build the release's masked autoencoder for images of one size."""
    import hiera

    model = getattr(hiera, f'mae_hiera_{arch}_224')(input_size=size)
    model.arch = arch
    return model


def release_mae_features(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the features of the release's supervised model with the autoencoder's encoder.

    That is how the release uses these weights; the autoencoder itself pools once less.
    """
    encoder = release(model.arch, tuple(images.shape[2:])).to(images.dtype).eval()
    missing, _ = encoder.load_state_dict(model.state_dict(), strict=False)
    assert {name.split('.')[0] for name in missing} == {'norm', 'head'}
    return release_features(encoder, images)


def timm(arch: str, size: Size) -> nn.Module:
    """Build timm's ``hiera_*`` or ``hiera_*_abswin`` for images of one size."""
    import timm

    trained = 256 if arch.endswith('_abswin') else 224
    return timm.create_model(f'hiera_{arch}_{trained}', img_size=size)


def timm_sam2(arch: str, size: Size) -> nn.Module:
    """Build timm's ``sam2_hiera_*`` or ``hieradet_*``, which take images of several sizes."""
    import timm

    return timm.create_model(arch.replace('sam2_', 'sam2_hiera_'))


def timm_features(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the ends of the four stages."""
    return model.forward_intermediates(images, intermediates_only=True)


def transformers(kind: str) -> Callable[[str, Size], nn.Module]:
    """Return a function that builds one of transformers' Hiera classes for images of one size."""

    def build(arch: str, size: Size) -> nn.Module:
        import transformers

        variant = VARIANTS[arch]
        config = transformers.HieraConfig(
            embed_dim=variant.embed_dim,
            depths=list(variant.depths),
            num_heads=_heads(arch),
            image_size=list(size),
            decoder_hidden_size=64,
            decoder_depth=1,
            decoder_num_heads=2,
            out_features=['stage1', 'stage2', 'stage3', 'stage4'],
        )
        return getattr(transformers, kind)(config)

    return build


def transformers_features(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the ends of the four stages of a model with a Hiera in it."""
    model = getattr(model, 'hiera', model)
    states = model(images, output_hidden_states=True, return_dict=True).reshaped_hidden_states
    return _to_nchw(states[1:])


def transformers_backbone_features(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the normed features that the weights of a ``HieraBackbone`` stand for.

    They are taken from a ``HieraModel`` with these weights. ``HieraBackbone`` itself (transformers
    5.23) hands its tokens to the encoder in image order, where the encoder expects mask units, and
    so computes something else.
    """
    parts = {f'{part}.{name}': value
             for part in ('embeddings', 'encoder')
             for name, value in getattr(model, part).state_dict().items()}  # fmt: skip
    features = transformers_features(_plain_model(model, parts, images), images)
    norms = model.hidden_states_norms.values()
    return _to_nchw([norm(x.movedim(1, -1)) for norm, x in zip(norms, features, strict=True)])


def transformers_backbone_outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the maps that a ``HieraBackbone`` itself computes."""
    return list(model(images, return_dict=True).feature_maps)


def transformers_mae_features(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the features of a ``HieraModel`` with the autoencoder's encoder."""
    return transformers_features(_plain_model(model, model.hiera.state_dict(), images), images)


def _plain_model(model: nn.Module, state: dict[str, Tensor], images: Tensor) -> nn.Module:
    """Return the ``HieraModel`` of another class's configuration and weights."""
    from transformers import HieraModel

    plain = HieraModel(copy.deepcopy(model.config), add_pooling_layer=False).to(images.dtype)
    plain.load_state_dict(state)
    return plain.eval()


def sam2(arch: str, size: Size) -> nn.Module:
    """Build the whole SAM 2.1 of Meta's own code, which takes images of several sizes."""
    from sam2.build_sam import build_sam2

    size = {'sam2_tiny': 't', 'sam2_small': 's', 'sam2_base_plus': 'b+', 'sam2_large': 'l'}[arch]
    return build_sam2(f'configs/sam2.1/sam2.1_hiera_{size}.yaml', ckpt_path=None, device='cpu')


def sam2_features(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the four maps of the image encoder's trunk."""
    return model.image_encoder.trunk(images)


def transformers_sam2(kind: str) -> Callable[[str, Size], nn.Module]:
    """Return a function that builds one of transformers' SAM 2 classes.

    They take images of several sizes.
    """

    def build(arch: str, size: Size) -> nn.Module:
        import transformers

        variant = VARIANTS[arch]
        encoder = transformers.Sam2HieraDetConfig(
            hidden_size=variant.embed_dim,
            embed_dim_per_stage=list(variant.dims),
            num_attention_heads=variant.num_heads,
            num_attention_heads_per_stage=_heads(arch),
            blocks_per_stage=list(variant.depths),
            window_size_per_stage=list(variant.window_sizes),
            global_attention_blocks=list(variant.global_blocks),
            window_positional_embedding_background_size=list(variant.pos_embed.grid),
        )
        if kind == 'Sam2HieraDetModel':
            return transformers.Sam2HieraDetModel(encoder)
        vision = transformers.Sam2VisionConfig(
            backbone_config=encoder, backbone_channel_list=list(variant.dims[::-1])
        )
        return transformers.Sam2Model(transformers.Sam2Config(vision_config=vision))

    return build


def transformers_sam2_features(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the ends of the four stages of the image encoder."""
    if hasattr(model, 'vision_encoder'):
        model = model.vision_encoder.backbone
    return _to_nchw(model(images).intermediate_hidden_states)


def _heads(arch: str) -> list[int]:
    return [VARIANTS[arch].num_heads * 2**stage for stage in range(4)]


def _to_nchw(maps: list[Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
    return [torch.movedim(x, -1, 1) for x in maps]
