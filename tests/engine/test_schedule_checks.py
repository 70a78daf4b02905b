"""What might be a mistake in a schedule is said once, and nothing is said of others."""

from __future__ import annotations

from dataclasses import replace


def warm_up(end: int) -> list[dict]:
    """A rising rate, and a falling one, which is none."""
    rising = dict(type='LinearLR', begin=0, end=end, start_factor=0.1, by_epoch=False)
    return [rising, {**rising, 'end': 99, 'start_factor': 1.0, 'end_factor': 0.1}]


MISTAKES = dict(
    train_cfg__max_iters=3,
    train_cfg__val_begin=4,
    param_scheduler=warm_up(4),
    optim_wrapper__accumulative_counts=2,
    default_hooks__logger__interval=4,
    default_hooks__checkpoint__interval=1,
    default_hooks__checkpoint__save_best='mIoU',
)
MENDED = dict(
    train_cfg__val_begin=3,
    param_scheduler=warm_up(3),
    default_hooks__logger__interval=3,
    default_hooks__checkpoint__interval=2,
)


def test_each_mistake_is_said_once(segmenter, tmp_path, logged):
    segmenter.train(tmp_path, **MISTAKES)
    found = ('warm-up takes 4 iterations', 'every 4 iterations', 'save_best', 'every 1 iterations')
    assert len(logged) == len(found)
    assert all(text in line for text, line in zip(found, logged, strict=True)), logged


def test_nothing_is_said_of_a_schedule_without_them(segmenter, tmp_path, logged):
    segmenter.train(tmp_path, **{**MISTAKES, **MENDED})
    assert not logged


def test_epochs_are_counted_as_epochs(segmenter, tmp_path, logged):
    config = tmp_path / 'config.py'
    config.write_text(
        f'_base_ = {str(segmenter.config)!r}\n'
        "train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2)\n"
        "hook = dict(_delete_=True, type='CheckpointHook', interval=1, by_epoch=True)\n"
        'default_hooks = dict(checkpoint=hook, logger=dict(interval=3))\n'
        'optim_wrapper = dict(accumulative_counts=2)\n'
    )
    options = {k: v for k, v in segmenter.options.items() if not k.startswith(('train_cfg', 'def'))}
    task = replace(segmenter, config=config, options=options)
    sampler = dict(type='DefaultSampler')
    task.train(tmp_path / 'w', train_dataloader__sampler=sampler, param_scheduler=warm_up(4))
    assert len(logged) == 1
    assert 'an epoch has 2: losses are shown once an epoch' in logged[0]
