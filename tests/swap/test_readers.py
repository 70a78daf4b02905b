import pytest

from hiera_mm.swap.readers import channel_changes, output_changes

OLD = (256, 512, 1024, 2048)
NEW = (96, 192, 384, 768)


@pytest.mark.parametrize(
    ('owner', 'changes'),
    [
        # A neck alone reads the backbone.
        (
            dict(
                backbone=dict(in_channels=256),
                neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256),
                rpn_head=dict(in_channels=256),
            ),
            {('neck', 'in_channels'): [96, 192, 384, 768]},
        ),
        # Of several necks the first one does.
        (
            dict(neck=[dict(in_channels=[512, 1024, 2048]), dict(in_channels=512)]),
            {('neck', 0, 'in_channels'): [192, 384, 768]},
        ),
        # At any depth and under any prefix.
        (
            dict(
                decode_head=dict(
                    c1_in_channels=256,
                    pixel_decoder=dict(in_channels=[2048, 1024]),
                    feat_channels=256,
                ),
                train_cfg=dict(in_channels=2048),
                data_preprocessor=dict(in_channels=2048),
            ),
            {
                ('decode_head', 'c1_in_channels'): 96,
                ('decode_head', 'pixel_decoder', 'in_channels'): [768, 384],
            },
        ),
        # Other channels stay.
        (dict(head=dict(in_channels=300, mask_in_channels=[7, 8], empty_in_channels=[])), {}),
        # Lists stay lists, and tuples tuples.
        (
            dict(neck=dict(in_channels=(512, 1024, 2048), back_in_channels=[2048, 1024])),
            {('neck', 'in_channels'): (192, 384, 768), ('neck', 'back_in_channels'): [768, 384]},
        ),
        # Inner parts of heads that say what they read stay.
        (
            dict(
                decode_head=dict(
                    kernel_generate_head=dict(in_channels=2048, in_index=3),
                    kernel_update_head=[dict(in_channels=512)],
                )
            ),
            {('decode_head', 'kernel_generate_head', 'in_channels'): 768},
        ),
    ],
)
def test_readers_are_told_of_other_channels(owner, changes):
    assert channel_changes(owner, OLD, NEW) == changes


def test_of_outputs_alike_the_head_says_which_it_reads_and_else_the_last_is_meant():
    owner = dict(
        decode_head=dict(in_channels=512, in_index=0),
        auxiliary_head=[
            dict(in_channels=[512, 512], in_index=[0, 2]),
            dict(in_channels=512, in_index=-1),
        ],
    )
    assert channel_changes(owner, (512, 512, 512), (1, 2, 3)) == {
        ('decode_head', 'in_channels'): 1,
        ('auxiliary_head', 0, 'in_channels'): [1, 3],
        ('auxiliary_head', 1, 'in_channels'): 3,
    }
    owner = dict(head=dict(in_channels=64))
    assert channel_changes(owner, (64, 64), (1, 2)) == {('head', 'in_channels'): 2}


@pytest.mark.parametrize(
    ('owner', 'unread', 'changes'),
    [
        (
            dict(neck=dict(in_channels=[96, 192, 384, 768], start_level=1)),
            [0],
            {('neck', 'in_channels'): [192, 384, 768], ('neck', 'start_level'): 0},
        ),
        (
            dict(
                decode_head=dict(in_channels=[96, 768], in_index=[0, -1]),
                auxiliary_head=dict(in_channels=384, in_index=2),
            ),
            [1],
            {('decode_head', 'in_index'): [0, 2], ('auxiliary_head', 'in_index'): 1},
        ),
        (
            dict(decode_head=dict(in_channels=NEW, in_index=(0, 3)), other=dict(in_channels=NEW)),
            [1, 2],
            {('decode_head', 'in_index'): (0, 1), ('other', 'in_channels'): (96, 768)},
        ),
    ],
)
def test_readers_are_told_of_outputs_left_out(owner, unread, changes):
    assert output_changes(owner, NEW, unread) == changes
