from collections import Counter

import pytest
import torch

from benchmarks.kit.ledger import Ledger
from benchmarks.study import pictures, report, resolution
from benchmarks.study.boxes import BoxNetwork
from benchmarks.study.resolution import ARMS, LAYOUTS, SIDE, TRAINED, Setting, jobs, network_of
from hiera_mm.errors import UserError

SMALL = Setting(
    seeds=1,
    scales=(1.0, 1.5),
    train_scenes=8,
    test_scenes=4,
    batch=2,
    train_steps=3,
    tune_steps=2,
)


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
    counts = Counter((job.scale, job.tuned) for job in jobs(Setting(seeds=2)))
    assert counts == {
        (scale, tuned): 2 * len(ARMS)
        for scale in (1.0, 1.5, 2.0, 3.0)
        for tuned in (False, True)
        if (scale, tuned) != (1.0, True)
    }
    assert len({job.name for job in jobs(Setting())}) == len(jobs(Setting()))


def test_larger_scenes_come_in_smaller_numbers():
    setting = Setting(test_scenes=300, batch=8)
    assert [setting.test_count(s) for s in (1, 1.5, 2, 3)] == [300, 133, 75, 60]
    assert [setting.batch_at(s) for s in (1, 1.5, 2, 3)] == [8, 4, 2, 1]
    assert [setting.side(s) for s in (1, 1.5, 2, 3)] == [128, 192, 256, 384]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A whole study, interrupted once, and what it said each time."""
    work_dir = tmp_path_factory.mktemp('study')
    said = [[], []]

    def interrupt(text, done, total):
        said[0].append(text)
        if text.startswith('absolute_win as'):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolution.run_study(SMALL, work_dir, Ledger(work_dir / 's', {}), 1, interrupt)
    kept = dict(Ledger(work_dir / 's', {}).results)
    results = resolution.run_study(
        SMALL, work_dir, Ledger(work_dir / 's', {}), 1, lambda text, *_: said[1].append(text)
    )
    return work_dir, said, kept, results


def test_an_interrupted_study_goes_on(finished):
    _, said, kept, results = finished
    assert list(results) == jobs(SMALL)
    assert sum(text.startswith('training with') for text in said[0]) == len(TRAINED)
    assert not any(text.startswith('training with') for text in said[1])
    scored = {name for name in kept if not name.startswith('training')}
    assert scored
    assert not any(text.startswith(f'{name}:') for text in said[1] for name in scored)
    assert all(0 < value <= 100 for value in results.values())
    for trained in TRAINED:  # at the training size, all forms are one network
        same = [v for job, v in results.items() if job.scale == 1 and job.arm.trained == trained]
        assert max(same) - min(same) < 0.01


def test_its_tables_and_pictures(finished, tmp_path):
    work_dir, _, _, results = finished
    table = report.results_table(results, SMALL, tuned=False).splitlines()
    assert table[0] == '| windows | trained with | used as | 1x (128) | 1.5x (192) |'
    assert len(table) == 2 + len(ARMS)
    tuned = report.results_table(results, SMALL, tuned=True)
    assert '1x' not in tuned
    report.draw_results(results, SMALL, tmp_path / 'scores.png')
    state = torch.load(resolution.Training('absolute_win', 0).file(work_dir), weights_only=True)
    pictures.draw_embeddings(state, tmp_path / 'embeddings.png')
    pictures.draw_features(state, tmp_path / 'features.png')
    assert all(file.stat().st_size > 20_000 for file in tmp_path.glob('*.png'))
    assert len(list(tmp_path.glob('*.png'))) == 3


def test_scores_are_averaged_over_seeds():
    results = {job: 10.0 * job.seed + job.scale for job in jobs(Setting(seeds=3))}
    mean, deviation = report.scores_of(results, ARMS[0], 2.0, tuned=True)
    assert mean == pytest.approx(12)
    assert deviation == pytest.approx(10)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(seeds=0), 'seeds must be above 0'),
        (dict(scales=(0.5,)), 'got 0.5'),
        (dict(scales=(1.01,)), 'multiples of 1/32'),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(UserError, match=message):
        Setting(**options)
