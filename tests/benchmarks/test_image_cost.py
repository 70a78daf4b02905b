"""What a larger image costs: every layout at every size, measured once."""

from argparse import Namespace

import pytest

from benchmarks.studies import image_cost
from hiera_mm.errors import UserError


def setting(**changed):
    default = dict(sides=[64, 448], train=False, device='cpu', dtype='float32', threads=1,
                   repeats=1)  # fmt: skip
    return Namespace(**{**default, **changed})


@pytest.mark.parametrize('power', [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_found(power):
    rows = [dict(side=side, seconds=3.0 * (side * side) ** power) for side in (512, 640, 2048)]
    assert image_cost.exponent(rows, image_cost.VALUES['s']) == pytest.approx(power)


@pytest.mark.parametrize(
    ('sides', 'train', 'in_processes'),
    [((64, 256), (), False), pytest.param((64, 448), ('--train',), True, marks=pytest.mark.slow)],
)
def test_the_script_measures_everything_once(
    run_script, tmp_path, monkeypatch, sides, train, in_processes
):
    layout = 'windows alone'
    monkeypatch.setattr(image_cost, 'LAYOUTS', {layout: image_cost.LAYOUTS[layout]})
    if not in_processes:
        monkeypatch.setattr(image_cost, 'in_new_process', lambda work, *args: work(*args))
    command = ('image_cost', '--sides', *sides, '--repeats', 1, '--threads', 1, *train,
               '--work-dir', tmp_path)  # fmt: skip
    done = run_script(*command)
    assert done.returncode == 0, done.stderr
    assert f'| {layout} | s' in done.stdout
    assert '(2/2) windows alone at ' in done.stderr
    lines = (tmp_path / 'costs.csv').read_text().splitlines()
    assert lines[0] == 'layout,side,seconds,spread,memory'
    small, large = (line.split(',') for line in lines[1:])
    assert small[:2] == [layout, '64']
    assert float(large[2]) > float(small[2]) > 0
    assert int(large[4]) > 2 * int(small[4]) > 0
    assert (tmp_path / 'costs.png').stat().st_size > 10_000
    monkeypatch.setattr(image_cost, 'in_new_process', lambda *_: pytest.fail('measured again'))
    assert run_script(*command).stdout == done.stdout


def test_the_table():
    rows = [
        dict(layout=name, side=side, seconds=side * side / 2**18, spread=0.0, memory=2**30)
        for name in image_cost.LAYOUTS
        for side in (512, 1024)
    ]
    lines = image_cost.cost_table(rows).splitlines()
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    assert cells[0] == ['layout', '', '512', '1024', 'exponent']
    assert cells[2] == ['windows alone', 's', '1.00', '4.00', '1.00']
    assert cells[3] == ['', 'GiB', '1.00', '1.00', '0.00']
    assert len(lines) == 2 + 2 * len(image_cost.LAYOUTS)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(sides=[16, 512]), 'at least 32 pixels, got 16'),
        (dict(sides=[512, 512]), 'two different sides'),
        (dict(device='gpu'), "no device 'gpu'; use cpu or cuda"),
    ],
)
def test_what_cannot_be_measured(options, message):
    with pytest.raises(UserError, match=message):
        image_cost.check(setting(**options))
