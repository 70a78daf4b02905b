"""Operators against operators: the same ones, wrong ones, and, where it is there, compiled ones."""

from __future__ import annotations

import csv
import math
import time

import pytest
import torch

import hiera_mm.ops
from benchmarks.kit.rounds import Times
from benchmarks.operators import measuring as operators
from benchmarks.operators import report as operator_report
from benchmarks.operators.cases import Call, Case, Draw
from benchmarks.operators.measuring import (
    Result,
    Setting,
    all_cases,
    chosen,
    compiled_functions,
    difference,
    measure,
)
from hiera_mm.errors import UserError
from hiera_mm.ops.kernels import KERNELS

QUICK = all_cases(quick=True)
ONCE = Setting(threads=1, rounds=1)
NO_OPERATORS = {'get_compiler_version', 'get_compiling_cuda_version'}


@pytest.fixture(autouse=True)
def one_call(monkeypatch):
    """Do not repeat what is fast."""
    monkeypatch.setattr(operators, 'LEAST_SECONDS', 0.0)


def one_case(operator: str) -> list[Case]:
    return chosen(QUICK, [operator])[:1]


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


def test_some_boxes_are_suppressed_and_some_are_not():
    for case in chosen(QUICK, ['nms', 'softnms']):
        call = case.make(Draw('cpu'))
        kept = operators.answer(KERNELS, case.operator, call)[0]
        assert 0.3 * len(call.args[0]) < len(kept) < len(call.args[0]), case


def test_both_sides_are_timed_where_they_agree():
    said = []
    results = measure(one_case('roi_align'), ONCE, KERNELS, said.append)
    (result,) = results
    assert result.ours.median > 0
    assert result.ratio == result.ours.median / result.compiled.median
    assert result.note == ''
    assert said == [f'roi_align_forward: {result.inputs}']


def test_different_answers_are_refused():
    def wrong(boxes, scores, **settings):
        return KERNELS['nms'](boxes, scores, **settings)[:-1]

    def off(*args, **settings):
        KERNELS['roi_align_forward'](*args, **settings)
        args[2][0, 0, 0, 0] += 0.01

    for name, function in (('nms', wrong), ('roi_align_forward', off)):
        (result,) = measure(one_case(name), ONCE, {**KERNELS, name: function})
        assert result.differ
        assert result.ours is result.compiled is result.ratio is None
        assert result.note.startswith('NOT TIMED: answers differ')


def test_a_fault_of_ours_does_not_pass_for_an_answer(monkeypatch):
    nan = {'bbox_overlaps': lambda one, two, ious, **_: ious.fill_(math.nan)}
    monkeypatch.setattr(operators, 'KERNELS', {**KERNELS, **nan})
    (result,) = measure(one_case('bbox_overlaps'), ONCE, KERNELS)
    assert result.differ


def test_what_only_we_have_is_timed_alone():
    def none_for_cpu(*args, **kwargs):
        raise RuntimeError('nms_impl: implementation for device cpu:0 not found.')

    for compiled, note in (
        (None, ''),
        ({}, 'not in the compiled mmcv'),
        ({'nms': none_for_cpu}, 'not compiled for cpu'),
    ):
        (result,) = measure(one_case('nms'), ONCE, compiled)
        assert result.ours.median > 0
        assert result.compiled is None
        assert result.ratio is None
        assert result.note == note


def test_other_faults_of_the_compiled_one_are_not_hidden():
    def broken(*args, **kwargs):
        raise RuntimeError('illegal memory access')

    with pytest.raises(RuntimeError, match='illegal memory access'):
        measure(one_case('nms'), ONCE, {'nms': broken})


def test_short_calls_are_repeated_and_divided(monkeypatch):
    monkeypatch.setattr(operators, 'LEAST_SECONDS', 0.05)
    calls = []

    def slow(seconds):
        calls.append(seconds)
        time.sleep(seconds)

    monkeypatch.setattr(operators, 'KERNELS', {'slow': slow})
    case = Case('slow', 'slow', '', lambda draw: Call((0.005,)))
    (result,) = measure([case], Setting(rounds=3), None)
    assert len(result.ours.seconds) == 3
    assert len(calls) > 3 * 3
    assert 0.005 <= result.ours.median < 0.05


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


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(device='gpu'), "no device 'gpu'"),
        (dict(rounds=0), 'rounds must be at least 1'),
        (dict(threads=0), 'threads must be at least 1'),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(UserError, match=message):
        Setting(**options)


@pytest.mark.parametrize(
    ('source', 'message'), [('broken', 'do not load'), ('torchvision', None), ('missing', None)]
)
def test_where_there_is_nothing_compiled(monkeypatch, source, message):
    monkeypatch.setattr(hiera_mm.ops, 'source', lambda: source)
    if message is None:
        assert compiled_functions() is None
    else:
        with pytest.raises(UserError, match=message):
            compiled_functions()


RESULTS = [
    Result('nms', '9 boxes', Times((0.002,) * 3), Times((0.004, 0.004, 0.006))),
    Result('carafe', 'a map', Times((0.5,)), note='not compiled for cpu'),
    Result('psamask', 'masks', differ=True, note='NOT TIMED: answers differ by 1'),
]


def test_the_table():
    lines = operator_report.results_table(RESULTS).splitlines()
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    assert rows[0] == [
        'operator', 'inputs', 'ours (ms)', 'spread', 'compiled (ms)', 'spread',
        'ours / compiled', 'note',
    ]  # fmt: skip
    assert rows[2] == ['nms', '9 boxes', '2', '0%', '4', '25%', '0.5', '']
    assert rows[3] == ['carafe', 'a map', '500', '0%', '', '', '', 'not compiled for cpu']
    assert rows[4][2:7] == [''] * 5
    alone = operator_report.results_table([Result('nms', '9 boxes', Times((0.002,)))])
    assert 'compiled' not in alone
    assert 'note' not in alone


def test_the_csv(tmp_path):
    operator_report.write_csv(RESULTS, tmp_path / 'o.csv')
    with (tmp_path / 'o.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['operator'] for row in rows] == ['nms', 'carafe', 'psamask']
    assert [row['ours_seconds'] for row in rows] == ['0.002', '0.5', '']
    assert [row['compiled_seconds'] for row in rows] == ['0.004', '', '']
    assert [row['ratio'] for row in rows] == ['0.5', '', '']
    assert rows[2]['note'] == 'NOT TIMED: answers differ by 1'


def test_what_was_compared_is_said():
    assert 'nothing to compare' in operator_report.describe(Setting(threads=1), None)
    said = operator_report.describe(ONCE, {**KERNELS, 'knn_forward': None, '__name__': ''})
    assert 'on 1 thread of' in said
    assert 'Only in the compiled mmcv: knn_forward.' in said


@pytest.mark.peers
@pytest.mark.skipif(hiera_mm.ops.source() != 'compiled', reason='needs a compiled mmcv')
def test_against_a_compiled_mmcv():
    results = measure(QUICK, ONCE, compiled_functions())
    assert not [result for result in results if result.differ]
    assert sum(result.ratio is not None for result in results) > 10


@pytest.mark.gpu
def test_on_a_gpu():
    for case in QUICK:
        here = operators.answer(KERNELS, case.operator, case.make(Draw('cpu')))
        there = operators.answer(KERNELS, case.operator, case.make(Draw('cuda')))
        there = [one.cpu() if isinstance(one, torch.Tensor) else one for one in there]
        assert difference(there, here) <= max(case.tolerance, 1e-5), case
    results = measure(QUICK, Setting('cuda', rounds=1), compiled_functions())
    assert not [result for result in results if result.differ]
