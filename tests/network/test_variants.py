import pytest
import torch

from hiera_mm.network import VARIANTS, HieraTrunk, Variant, resolve_variant

# Parameters without head and final norm, counted in the models of the release, SAM 2 and timm.
PARAMETERS = {
    'tiny': 27_139_680,
    'small': 34_237_536,
    'base': 50_754_432,
    'base_plus': 68_997_824,
    'large': 212_584_608,
    'huge': 670_726_656,
    'base_windowed': 50_754_432,
    'base_plus_windowed': 68_997_824,
    'large_windowed': 212_584_608,
    'sam2_tiny': 26_849_472,
    'sam2_small': 33_947_328,
    'sam2_base_plus': 68_675_712,
    'sam2_large': 212_149_296,
    'hieradet_small': 33_959_808,
    'small_abswin': 33_591_264,
    'base_abswin': 50_496_768,
}


def test_every_size_has_its_count_in_this_test():
    assert PARAMETERS.keys() == VARIANTS.keys()


@pytest.mark.parametrize('arch', VARIANTS)
def test_parameter_counts_on_the_meta_device(arch):
    with torch.device('meta'):
        trunk = HieraTrunk(arch, out_norm_eps=None)
    assert {p.device.type for p in trunk.parameters()} == {'meta'}
    assert sum(p.numel() for p in trunk.parameters()) == PARAMETERS[arch]


def test_a_dict_means_the_same_as_a_name():
    fields = dict(embed_dim=96, num_heads=1, depths=[1, 2, 7, 2])
    assert resolve_variant(fields) == VARIANTS['tiny']
    assert resolve_variant(Variant(**fields)) == VARIANTS['tiny']


@pytest.mark.parametrize(
    ('wrong', 'hint'),
    [
        ('tinny', "did you mean 'tiny'"),
        ('Base+', "did you mean 'base'"),
        ('base-plus', "did you mean 'base_plus'"),
        ('resnet50', 'known ones: tiny, small'),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(wrong, hint):
    with pytest.raises(ValueError, match='no Hiera called') as error:
        resolve_variant(wrong)
    assert hint in str(error.value)


@pytest.mark.parametrize(
    ('change', 'error', 'message'),
    [
        (dict(embed_dims=96), ValueError, "unknown field 'embed_dims'.*'embed_dim'"),
        (dict(depths=(1, 1, 1)), ValueError, '4 integers, one for each stage'),
        (dict(depths=(1, 1, 2.5, 1)), TypeError, 'sequence of 4 integers'),
        (dict(window_sizes=(8, 4, 0)), ValueError, 'window_sizes must be a sequence of 4'),
        (dict(window_sizes=(8, 6, 0, 0)), ValueError, 'stage 1 .* multiple of 4 .* got 6'),
        (dict(window_sizes=(8, 4, -2, 0)), ValueError, 'got -2'),
        (dict(global_blocks=(12,)), ValueError, 'block 12; .* the blocks are 0 to 11'),
        (dict(global_blocks=5), TypeError, 'global_blocks must be a sequence of integers'),
        (dict(q_pool=4), ValueError, 'q_pool must be 0 to 3, got 4'),
        (dict(q_pool=2, window_sizes=(8, 4, 0, 1)), ValueError, 'multiple of 2 tokens'),
        (dict(layer_scale=1e-5), TypeError, 'layer_scale must be True or False'),
        (dict(shortcut='conv'), ValueError, "'proj' or 'pool'"),
        (dict(pos_embed='absolut'), ValueError, "did you mean 'absolute'"),
        (dict(depths=(1, 1, 0, 1)), ValueError, 'at least 1'),
        (dict(depths='1111'), TypeError, 'sequence of 4'),
        (dict(embed_dim=96.0), TypeError, 'embed_dim must be an integer'),
        (dict(num_heads=5), ValueError, 'multiple of num_heads'),
        (dict(num_heads=True), TypeError, 'num_heads must be an integer'),
    ],
)
def test_impossible_fields(change, error, message):
    fields = dict(embed_dim=96, num_heads=1, depths=(1, 2, 7, 2)) | change
    with pytest.raises(error, match=message):
        resolve_variant(fields)


def test_a_missing_field_is_named():
    with pytest.raises(ValueError, match='lacks num_heads, depths'):
        resolve_variant(dict(embed_dim=96))


def test_other_types_are_refused():
    with pytest.raises(TypeError, match='got int'):
        resolve_variant(3)
