"""Operators against operators: the same ones, wrong ones, and, where it is there, compiled ones."""

from __future__ import annotations

import csv
import math
from argparse import Namespace

import pytest
import torch

import hiera_mm.ops
from benchmarks.mmcv_ops import measuring as operators
from benchmarks.mmcv_ops.cases import Call, Case, Draw
from benchmarks.mmcv_ops.measuring import all_cases, chosen, compiled_functions, difference
from hiera_mm.errors import UserError
from hiera_mm.ops.kernels import KERNELS

QUICK = all_cases(quick=True)
ONCE = Namespace(device='cpu', threads=1, rounds=1)
NO_OPERATORS = {'get_compiler_version', 'get_compiling_cuda_version'}


@pytest.fixture(autouse=True)
def one_call(monkeypatch):
    """Do not repeat what is fast."""
    monkeypatch.setattr(operators, 'LEAST_SECONDS', 0.0)


def one_case(operator: str) -> list[Case]:
    return chosen(QUICK, [operator])[:1]


def measure(cases, compiled, setting=ONCE):
    return list(operators.measure(cases, setting, compiled))


def test_every_operator_has_cases():
    for quick in (False, True):
        cases = all_cases(quick=quick)
        assert {case.operator for case in cases} == set(KERNELS) - NO_OPERATORS
        assert len({(case.operator, case.inputs) for case in cases}) == len(cases)
        assert [case.operator for case in cases] == [case.operator for case in QUICK]


@pytest.mark.parametrize('case', QUICK, ids=lambda case: f'{case.operator}: {case.inputs}')
def test_cases_run_and_repeat_themselves(case):
    """Made twice, they give the same answers, which are no trivial ones."""
    first, second = (
        operators.answer(KERNELS, case.operator, case.make(Draw('cpu'))) for _ in range(2)
    )
    assert difference(first, second) == 0
    values = [one for one in first if isinstance(one, torch.Tensor)]
    assert all((one != 0).any() for one in values)
    assert values or len(first[0]) > 1
    if case.operator in ('nms', 'softnms'):  # some boxes are suppressed and some are not
        count = len(case.make(Draw('cpu')).args[0])
        assert 0.3 * count < len(first[0]) < count


def test_both_sides_are_timed_where_they_agree():
    said = []
    (row,) = operators.measure(one_case('roi_align'), ONCE, KERNELS, said.append)
    assert row['ours_seconds'] > 0
    assert row['ratio'] == row['ours_seconds'] / row['compiled_seconds']
    assert row['note'] == ''
    assert said == [f'roi_align_forward: {row["inputs"]}']


def test_different_answers_are_refused(monkeypatch):
    def wrong(boxes, scores, **settings):
        return KERNELS['nms'](boxes, scores, **settings)[:-1]

    def off(*args, **settings):
        KERNELS['roi_align_forward'](*args, **settings)
        args[2][0, 0, 0, 0] += 0.01

    for name, function in (('nms', wrong), ('roi_align_forward', off)):
        (row,) = measure(one_case(name), {**KERNELS, name: function})
        assert row['note'].startswith('NOT TIMED: answers differ')
        assert row['differ']
        assert not {'ours_seconds', 'compiled_seconds', 'ratio'} & set(row)
    # A fault of ours does not pass for an answer either.
    nan = {'bbox_overlaps': lambda one, two, ious, **_: ious.fill_(math.nan)}
    monkeypatch.setattr(operators, 'KERNELS', {**KERNELS, **nan})
    assert measure(one_case('bbox_overlaps'), KERNELS)[0]['differ']


def test_what_only_we_have_is_timed_alone():
    def none_for_cpu(*args, **kwargs):
        raise RuntimeError('nms_impl: implementation for device cpu:0 not found.')

    for compiled, note in (
        (None, ''),
        ({}, 'not in the compiled mmcv'),
        ({'nms': none_for_cpu}, 'not compiled for cpu'),
    ):
        (row,) = measure(one_case('nms'), compiled)
        assert row['ours_seconds'] > 0
        assert 'compiled_seconds' not in row
        assert row['note'] == note


def test_other_faults_of_the_compiled_one_are_not_hidden():
    def broken(*args, **kwargs):
        raise RuntimeError('illegal memory access')

    with pytest.raises(RuntimeError, match='illegal memory access'):
        measure(one_case('nms'), {'nms': broken})


def test_short_calls_are_repeated_and_divided(monkeypatch):
    monkeypatch.setattr(operators, 'LEAST_SECONDS', 0.05)
    now, calls = [0.0], []
    monkeypatch.setattr(operators.time, 'perf_counter', lambda: now[0])

    def slow(seconds):
        calls.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(operators, 'KERNELS', {'slow': slow})
    case = Case('slow', 'slow', '', lambda draw: Call((0.005,)))
    (row,) = measure([case], None, Namespace(device='cpu', threads=1, rounds=3))
    assert row['ours_seconds'] == pytest.approx(0.005)
    assert len(calls) >= 3 * 10


def test_calls_do_not_disturb_each_other():
    """Each side works on its own copies, also where a forward pass comes before."""
    case = one_case('carafe_backward')[0]
    call = case.make(Draw('cpu'))
    before = [arg.clone() for arg in call.args]
    first = operators.answer(KERNELS, case.operator, call)
    assert all(torch.equal(one, other) for one, other in zip(call.args, before, strict=True))
    lean = one_case('carafe_naive_backward')[0]
    other = operators.answer(KERNELS, lean.operator, lean.make(Draw('cpu')))
    assert difference(first, other) == 0  # the same numbers were drawn


@pytest.mark.parametrize(
    ('ours', 'theirs', 'expected'),
    [
        ([None, torch.tensor([1.0, 4.0])], [None, torch.tensor([2.0, 4.0])], 0.25),
        ([torch.tensor([1, 2])], [torch.tensor([1, 2])], 0),
        ([torch.tensor([1, 2])], [torch.tensor([1, 3])], math.inf),
        ([torch.zeros(2)], [torch.zeros(3)], math.inf),
        ([torch.zeros(2)], [torch.zeros(2)], 0),
        ([torch.tensor([math.nan])], [torch.tensor([1.0])], math.inf),
        ([torch.tensor([1.0])], [torch.tensor([math.nan])], math.inf),
        ([[[0, 1], [2]]], [[[0, 1], [2]]], 0),
        ([[[0, 1], [2]]], [[[0], [1, 2]]], math.inf),
    ],
)
def test_how_far_answers_are_apart(ours, theirs, expected):
    assert difference(ours, theirs) == expected


def test_operators_are_chosen_by_name_or_family():
    assert [case.operator for case in chosen(QUICK, ['carafe', 'nms_match'])] == [
        'nms_match',
        'carafe_forward',
        'carafe_backward',
    ]
    with pytest.raises(UserError, match=r'--only roi_alin: .* Did you mean roi_align'):
        chosen(QUICK, ['roi_alin'])
    with pytest.raises(UserError, match='There are bbox_overlaps, carafe'):
        chosen(QUICK, ['xyz'])


def test_where_there_is_nothing_compiled(monkeypatch):
    for source in ('torchvision', 'missing'):
        monkeypatch.setattr(hiera_mm.ops, 'source', lambda source=source: source)
        assert compiled_functions() is None
    assert 'nothing to compare' in operators.describe(ONCE, None)
    monkeypatch.setattr(hiera_mm.ops, 'source', lambda: 'broken')
    with pytest.raises(UserError, match='do not load'):
        compiled_functions()


def test_the_table():
    rows = [
        dict(operator='nms', inputs='9 boxes', ours_seconds=0.002, ours_spread=0.0,
             compiled_seconds=0.004, compiled_spread=0.25, ratio=0.5, note=''),
        dict(operator='carafe', inputs='a map', ours_seconds=0.5, ours_spread=0.0,
             note='not compiled for cpu'),
        dict(operator='psamask', inputs='masks', note='NOT TIMED'),
    ]  # fmt: skip
    lines = operators.results_table(rows).splitlines()
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    assert cells[2] == ['nms', '9 boxes', '2', '0%', '4', '25%', '0.5', '']
    assert cells[3] == ['carafe', 'a map', '500', '0%', '', '', '', 'not compiled for cpu']
    assert cells[4][2:7] == [''] * 5


def test_the_script(run_script, tmp_path):
    options = ('--quick', '--rounds', 1, '--threads', 1, '--only', 'nms', '--work-dir', tmp_path)
    done = run_script('operators', *options)
    assert done.returncode == 0, done.stderr
    assert '| nms      | 40 boxes' in done.stdout
    assert 'nms: 90 boxes' in done.stderr
    assert (tmp_path / 'operators.md').stat().st_size
    with (tmp_path / 'operators.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['operator'] for row in rows] == ['nms'] * 3
    assert all(float(row['ours_seconds']) > 0 for row in rows)
    done = run_script('operators', '--only', 'nmss')
    assert done.returncode == 2
    assert 'Did you mean nms' in done.stderr


@pytest.mark.peers
@pytest.mark.skipif(hiera_mm.ops.source() != 'compiled', reason='needs a compiled mmcv')
def test_against_a_compiled_mmcv():
    rows = measure(QUICK, compiled_functions())
    assert not [row for row in rows if 'differ' in row]
    assert sum('ratio' in row for row in rows) > 10
    assert 'Only in the compiled mmcv: ' in operators.describe(ONCE, compiled_functions())


@pytest.mark.gpu
def test_on_a_gpu():
    for case in QUICK:
        here = operators.answer(KERNELS, case.operator, case.make(Draw('cpu')))
        there = operators.answer(KERNELS, case.operator, case.make(Draw('cuda')))
        there = [one.cpu() if isinstance(one, torch.Tensor) else one for one in there]
        assert difference(there, here) <= max(case.tolerance, 1e-5), case
    rows = measure(QUICK, compiled_functions(), Namespace(device='cuda', threads=None, rounds=1))
    assert not [row for row in rows if 'differ' in row]
