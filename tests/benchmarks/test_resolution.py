"""The study of position embeddings beyond the training size."""

from argparse import Namespace
from collections import Counter

import pytest
import torch

from benchmarks.kit.ledger import Ledger
from benchmarks.studies import pictures, resolution
from benchmarks.studies.boxes import BoxNetwork
from benchmarks.studies.resolution import (
    ARMS,
    LAYOUTS,
    SIDE,
    TRAINED,
    Job,
    Training,
    check,
    fewer,
    jobs,
    network_of,
)
from hiera_mm.errors import UserError

SMALL = Namespace(
    seeds=1, scales=(1.0, 1.5), train_scenes=8, test_scenes=4, train_steps=3, tune_steps=2,
    pretrain_steps=0,
)  # fmt: skip
FULL = Namespace(seeds=3, scales=(1.0, 1.5, 2.0, 3.0))


def state_of(trained):
    """Weights as after a training: the position embedding is as large as the rest."""
    torch.manual_seed(0)
    network = BoxNetwork(LAYOUTS['global'], TRAINED[trained])
    for name in network.backbone.position_names:
        torch.nn.init.normal_(getattr(network.backbone, name))
    return network.state_dict()


@torch.no_grad()
def outputs(trained, side):
    torch.manual_seed(1)
    image = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
    state = state_of(trained)
    return {arm: network_of(arm, state).eval()(image) for arm in ARMS if arm.trained == trained}


@pytest.mark.parametrize('trained', TRAINED)
def test_all_arms_of_a_training_are_one_network_at_its_size_and_differ_beyond(trained):
    first, *others = outputs(trained, SIDE).values()
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-4, atol=1e-4)
    larger = list(outputs(trained, 2 * SIDE).items())
    for index, (arm, one) in enumerate(larger):
        for other_arm, other in larger[:index]:
            forms = {arm.form, other_arm.form}
            if arm.layout == other_arm.layout and forms == {'window_aligned', 'absolute_win'}:
                continue  # the same parts, resized the same way from maps of different sizes
            assert (one - other).abs().max() > 1e-2, (arm, other_arm)


def test_the_jobs():
    counts = Counter((job.scale, job.tuned) for job in jobs(FULL))
    assert counts == {
        (scale, tuned): 3 * len(ARMS)
        for scale in FULL.scales
        for tuned in (False, True)
        if (scale, tuned) != (1.0, True)
    }
    assert len({job.name for job in jobs(FULL)}) == len(jobs(FULL))


def test_larger_scenes_come_in_smaller_numbers():
    assert [fewer(300, scale, least=60) for scale in (1, 1.5, 2, 3)] == [300, 133, 75, 60]
    assert [fewer(8, scale) for scale in (1, 1.5, 2, 3, 9)] == [8, 4, 2, 1, 1]


def test_a_training_and_its_scores(tmp_path):
    assert resolution.train_once(Training('absolute', 0), SMALL, tmp_path) > 0
    arm = next(arm for arm in ARMS if arm.trained == 'absolute')
    scores = [
        resolution.score_once(Job(arm, 0, 1.5, tuned), SMALL, tmp_path) for tuned in (False, True)
    ]
    assert all(0 < score <= 100 for score in scores)
    assert scores[0] != scores[1]


def test_pretraining_changes_the_backbone_alone():
    scenes = resolution._scenes(2, resolution.SIDE, seed=0)
    network = BoxNetwork(LAYOUTS['global'], TRAINED['absolute_win'])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    resolution.pretrain(network, scenes, steps=3, seed=0)
    changed = {name for name, t in network.state_dict().items() if not t.equal(before[name])}
    assert changed == {
        name for name in before if name.startswith('backbone.') and 'out_norms' not in name
    }


@pytest.mark.slow
def test_an_interrupted_study_goes_on_and_ends_in_tables_and_pictures(
    run_script, tmp_path, monkeypatch
):
    said, options = [], vars(SMALL).items()
    small = [str(part) for name, value in options if name != 'scales'
             for part in (f'--{name.replace("_", "-")}', value)]  # fmt: skip
    command = ('resolution', *small, '--scales', 1, 1.5, '--workers', 1, '--work-dir', tmp_path)

    def interrupt(text):
        said.append(text)
        if 'absolute_win as' in text:
            raise KeyboardInterrupt

    record = {**vars(SMALL), 'torch': torch.__version__}
    ledger = Ledger(tmp_path / 'scores.jsonl', record)
    with pytest.raises(KeyboardInterrupt):
        resolution.run_study(SMALL, tmp_path, ledger, 1, interrupt)
    assert sum(text.startswith('training with') for text in said) == len(TRAINED)
    done = run_script(*command)
    assert done.returncode == 0, done.stderr
    assert 'training with' not in done.stderr
    scored = [name for name in ledger.results if not name.startswith('training')]
    assert scored
    assert not any(f' {name}: ' in done.stderr for name in scored)
    assert len(list(tmp_path.glob('*.png'))) == 3
    assert all(file.stat().st_size > 20_000 for file in tmp_path.glob('*.png'))
    results = Ledger(tmp_path / 'scores.jsonl', record).results
    assert {job.name for job in jobs(SMALL)} <= set(results)
    for trained in TRAINED:  # at the training size, all forms are one network
        same = [results[j.name] for j in jobs(SMALL) if j.scale == 1 and j.arm.trained == trained]
        assert max(same) - min(same) < 0.01


def test_tables_and_pictures_of_made_up_scores(tmp_path):
    results = {job: 10.0 * job.seed + job.scale for job in jobs(FULL)}
    assert pictures.scores_of(results, ARMS[0], 2.0, tuned=True) == pytest.approx((12, 10))
    head, _, first, *_ = pictures.results_table(results, FULL, tuned=False).splitlines()
    assert '1x (128) |  1.5x (192) |' in head
    assert '| 11.0 ± 10.0 | 11.5 ± 10.0 |' in first
    assert '1x (' not in pictures.results_table(results, FULL, tuned=True)
    pictures.draw_results(results, FULL, tmp_path / 'scores.png')
    pictures.draw_embeddings(state_of('absolute_win'), tmp_path / 'embeddings.png')
    assert all(file.stat().st_size > 20_000 for file in tmp_path.glob('*.png'))


@pytest.mark.parametrize('scale', [0.5, 1.01])
def test_scales_without_a_whole_number_of_points(scale):
    with pytest.raises(UserError, match='multiples of 1/32'):
        check(Namespace(scales=(scale,)))
