from hiera_mm.swap.readers import channel_changes, output_changes

OLD = (256, 512, 1024, 2048)
NEW = (96, 192, 384, 768)


def test_a_neck_alone_reads_the_backbone():
    owner = dict(
        backbone=dict(in_channels=256),
        neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256),
        rpn_head=dict(in_channels=256),
    )
    assert channel_changes(owner, OLD, NEW) == {('neck', 'in_channels'): [96, 192, 384, 768]}


def test_of_several_necks_the_first_reads_the_backbone():
    owner = dict(neck=[dict(in_channels=[512, 1024, 2048]), dict(in_channels=512)])
    assert channel_changes(owner, OLD, NEW) == {('neck', 0, 'in_channels'): [192, 384, 768]}


def test_heads_say_which_output_they_read():
    alike = (512, 512, 512)  # values alone would not tell
    owner = dict(
        decode_head=dict(in_channels=512, in_index=0),
        auxiliary_head=[
            dict(in_channels=[512, 512], in_index=[0, 2]),
            dict(in_channels=512, in_index=-1),
        ],
    )
    assert channel_changes(owner, alike, (1, 2, 3)) == {
        ('decode_head', 'in_channels'): 1,
        ('auxiliary_head', 0, 'in_channels'): [1, 3],
        ('auxiliary_head', 1, 'in_channels'): 3,
    }


def test_channels_are_found_at_any_depth_and_under_any_prefix():
    owner = dict(
        decode_head=dict(
            c1_in_channels=256, pixel_decoder=dict(in_channels=[2048, 1024]), feat_channels=256
        ),
        train_cfg=dict(in_channels=2048),
        data_preprocessor=dict(in_channels=2048),
    )
    assert channel_changes(owner, OLD, NEW) == {
        ('decode_head', 'c1_in_channels'): 96,
        ('decode_head', 'pixel_decoder', 'in_channels'): [768, 384],
    }


def test_other_channels_stay():
    owner = dict(head=dict(in_channels=300, mask_in_channels=[7, 8], empty_in_channels=[]))
    assert channel_changes(owner, OLD, NEW) == {}


def test_of_outputs_alike_the_last_is_meant():
    owner = dict(head=dict(in_channels=64))
    assert channel_changes(owner, (64, 64), (1, 2)) == {('head', 'in_channels'): 2}


def test_readers_are_told_of_outputs_left_out():
    neck = dict(neck=dict(in_channels=[96, 192, 384, 768], start_level=1))
    assert output_changes(neck, NEW, [0]) == {
        ('neck', 'in_channels'): [192, 384, 768],
        ('neck', 'start_level'): 0,
    }
    heads = dict(
        decode_head=dict(in_channels=[96, 768], in_index=[0, -1]),
        auxiliary_head=dict(in_channels=384, in_index=2),
    )
    assert output_changes(heads, NEW, [1]) == {
        ('decode_head', 'in_index'): [0, 2],
        ('auxiliary_head', 'in_index'): 1,
    }


def test_lists_stay_lists_and_tuples_tuples():
    owner = dict(neck=dict(in_channels=(512, 1024, 2048), back_in_channels=[2048, 1024]))
    assert channel_changes(owner, OLD, NEW) == {
        ('neck', 'in_channels'): (192, 384, 768),
        ('neck', 'back_in_channels'): [768, 384],
    }
    owner = dict(
        decode_head=dict(in_channels=NEW, in_index=(0, 3)), neck_free=dict(in_channels=NEW)
    )
    assert output_changes(owner, NEW, [1, 2]) == {
        ('decode_head', 'in_index'): (0, 1),
        ('neck_free', 'in_channels'): (96, 768),
    }


def test_inner_parts_of_heads_that_say_what_they_read_stay():
    owner = dict(
        decode_head=dict(
            kernel_generate_head=dict(in_channels=2048, in_index=3),
            kernel_update_head=[dict(in_channels=512)],
        )
    )
    assert channel_changes(owner, OLD, NEW) == {
        ('decode_head', 'kernel_generate_head', 'in_channels'): 768
    }
