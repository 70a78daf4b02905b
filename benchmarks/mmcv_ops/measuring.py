"""mmcv's operators as they are served here beside the compiled ones: the same answers, how fast?"""

from __future__ import annotations

import importlib
import math
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib import metadata
from typing import Any

import torch
import torchvision
from torch import Tensor

from benchmarks.kit.tables import written
from benchmarks.kit.timing import measure_rounds, on_threads, wait_for
from benchmarks.mmcv_ops.boxes import box_cases
from benchmarks.mmcv_ops.cases import Call, Case, Draw, Functions
from benchmarks.mmcv_ops.deformable import deformable_cases
from benchmarks.mmcv_ops.maps import map_cases
from hiera_mm import ops
from hiera_mm.cost.report import table, three_digits
from hiera_mm.engine.launch import describe_device
from hiera_mm.errors import UserError, listing, nearest
from hiera_mm.ops import EXTENSION
from hiera_mm.ops.kernels import KERNELS

OURS, COMPILED = 'ours', 'compiled'
LEAST_SECONDS = 0.01  # that a timed work takes; shorter calls are repeated
MOST_CALLS = 1000
SLOW_SECONDS = 1.0  # a first call that takes longer is no short one that had to get ready
# How a compiled mmcv says that it has no version for a device.
_LACKS = ('implementation for device', 'not implemented on', 'not compiled with')

Row = dict[str, Any]
"""What was found of a case, with the names of the CSV, and `differ` if the answers do."""


def all_cases(*, quick: bool = False) -> list[Case]:
    """Return the cases of all operators, with small inputs if `quick`."""
    return [*box_cases(quick=quick), *deformable_cases(quick=quick), *map_cases(quick=quick)]


def chosen(cases: Sequence[Case], names: Sequence[str]) -> list[Case]:
    """Return the cases of some operators, or families of them such as ``roi_align``."""
    known = {name: name for case in cases for name in (case.family, case.operator)}
    for name in names:
        if name not in known:
            hint = nearest(name, known) or f' There are {", ".join(sorted(known))}.'
            raise UserError(f'--only {name}: there is no such operator.{hint}')
    return [case for case in cases if {case.operator, case.family} & set(names)]


def compiled_functions() -> Functions | None:
    """Return the functions of a compiled mmcv; None if there is none here."""
    if ops.source() == 'broken':
        raise UserError(
            'The compiled operators of mmcv do not load: `python -m hiera_mm.doctor` says why.'
        )
    if ops.source() != COMPILED:
        return None
    return vars(importlib.import_module(EXTENSION))


def measure(
    cases: Iterable[Case],
    setting: Namespace,
    compiled: Functions | None,
    report: Callable[[str], None] = lambda _: None,
) -> Iterator[Row]:
    """Compare the answers of each case, and time both sides where they agree.

    Args:
        cases: What to do.
        setting: The options of ``benchmarks/operators.py``: `device`, `threads`, `rounds`.
        compiled: The functions of a compiled mmcv; None to time ours alone.
        report: Called with a line about what happens next.
    """
    with on_threads(setting.threads):
        for case in cases:
            report(f'{case.operator}: {case.inputs}')
            start = dict(operator=case.operator, inputs=case.inputs)
            yield start | _measure(case, setting, compiled)


def _measure(case: Case, setting: Namespace, compiled: Functions | None) -> Row:
    call = case.make(Draw(setting.device))
    sides, note = {OURS: KERNELS}, ''
    if compiled is not None and case.operator in compiled:
        try:
            theirs = answer(compiled, case.operator, call)
        except (RuntimeError, NotImplementedError) as error:
            if not any(sign in str(error).lower() for sign in _LACKS):
                raise
            note = f'not compiled for {setting.device}'
        else:
            apart = difference(answer(KERNELS, case.operator, call), theirs)
            if not apart <= case.tolerance:
                note = f'NOT TIMED: answers differ by {apart:.2g} (allowed: {case.tolerance:g})'
                return dict(differ=True, note=note)
            sides[COMPILED] = compiled
    elif compiled is not None:
        note = 'not in the compiled mmcv'
    row = _times(case, call, sides, setting)
    if COMPILED in sides:
        row['ratio'] = row['ours_seconds'] / row['compiled_seconds']
    return row | dict(note=note)


def answer(functions: Functions, operator: str, call: Call) -> list[Any]:
    """Call an operator on copies of the arguments; return what it returns and what it fills."""
    args = _copies(functions, call)
    returned = functions[operator](*args, **call.settings)
    return [returned, *(args[place] for place in call.filled)]


def _copies(functions: Functions, call: Call) -> tuple[Any, ...]:
    args = tuple(arg.clone() if isinstance(arg, Tensor) else arg for arg in call.args)
    if call.prepare is not None:
        call.prepare(functions, args)
    return args


def difference(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """Return how far an answer is from what it should be, as a share of the largest value.

    It is infinite for answers of other kinds or shapes, other indices, and values not finite.
    """
    largest = 0.0
    for one, other in zip(ours, theirs, strict=True):
        if not isinstance(other, Tensor) or not other.is_floating_point():
            same = torch.equal(one, other) if isinstance(other, Tensor) else one == other
            apart = 0.0 if same else math.inf
        elif one.shape != other.shape:
            apart = math.inf
        else:
            apart = float((one - other).abs().max() / other.abs().max().clamp(min=1e-30))
        largest = max(largest, math.inf if math.isnan(apart) else apart)
    return largest


def _times(case: Case, call: Call, sides: Mapping[str, Functions], setting: Namespace) -> Row:
    """Return seconds and spread of one call of each side."""
    works, calls = {}, {}
    for name, functions in sides.items():
        # What is filled is not emptied between the calls: that is not the operator's work.
        run = partial(functions[case.operator], *_copies(functions, call), **call.settings)
        calls[name] = _calls_needed(run, setting.device)

        def work(run: Callable[[], object] = run, count: int = calls[name]) -> None:
            for _ in range(count):
                run()

        works[name] = work
    # All have been called already.
    times = measure_rounds(works, setting.rounds, warmups=0, device=setting.device)
    row = {}
    for name, one in times.items():
        row |= {f'{name}_seconds': one.median / calls[name], f'{name}_spread': one.spread}
    return row


def _calls_needed(run: Callable[[], object], device: str) -> int:
    """Return how many calls take long enough to be timed."""
    for _ in range(2):  # the first is slower
        start = time.perf_counter()
        run()
        wait_for(device)
        seconds = time.perf_counter() - start
        if seconds > SLOW_SECONDS:
            break
    return min(max(math.ceil(LEAST_SECONDS / seconds), 1), MOST_CALLS)


def describe(setting: Namespace, compiled: Functions | None) -> str:
    """Say what is compared with what, on what."""
    where = describe_device(setting.device, setting.threads)
    ours = (
        f"Ours: mmcv's operators served by torchvision {torchvision.__version__} and torch "
        f'{torch.__version__}. float32 on {where}, median of {setting.rounds} rounds.'
    )
    if compiled is None:
        return f'{ours}\nNo compiled mmcv is installed here, so there is nothing to compare with.'
    name = next(name for name in ('onedl-mmcv', 'mmcv') if _is_installed(name))
    only = sorted(name for name in compiled if name[0] != '_' and name not in KERNELS)
    return (
        f'{ours}\nCompiled: those of {name} {metadata.version(name)}. Answers were compared before '
        f'anything was timed.\nOnly in the compiled mmcv: {listing(only) or "nothing"}.'
    )


def _is_installed(name: str) -> bool:
    return any(metadata.distributions(name=name))


def results_table(rows: Sequence[Row]) -> str:
    """Return a Markdown table with a row for each case, without columns that nothing is in."""
    head = ('operator', 'inputs', 'ours (ms)', 'spread', 'compiled (ms)', 'spread',
            'ours / compiled', 'note')  # fmt: skip

    def cells(row: Row) -> Iterator[str]:
        yield from (row['operator'], row['inputs'])
        for side in (OURS, COMPILED):
            seconds = row.get(f'{side}_seconds')
            yield '' if seconds is None else three_digits(1e3 * seconds)
            yield written(row.get(f'{side}_spread'), '.0%')
        yield three_digits(row['ratio']) if 'ratio' in row else ''
        yield row['note']

    return table(head, [list(cells(row)) for row in rows], texts=2)
