"""mmcv's operators as they are served here beside the compiled ones: the same answers, how fast?"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.kit.rounds import Times, measure_rounds
from benchmarks.kit.threads import on_threads
from benchmarks.operators.box_cases import box_cases
from benchmarks.operators.cases import Call, Case, Draw, Functions
from benchmarks.operators.deformable_cases import deformable_cases
from benchmarks.operators.map_cases import map_cases
from hiera_mm import ops
from hiera_mm.engine.launch import check_device
from hiera_mm.errors import UserError
from hiera_mm.network.names import nearest
from hiera_mm.ops import EXTENSION
from hiera_mm.ops.kernels import KERNELS

OURS, COMPILED = 'ours', 'compiled'
LEAST_SECONDS = 0.01  # that a timed work takes; shorter calls are repeated
MOST_CALLS = 1000
SLOW_SECONDS = 1.0  # a first call that takes longer is no short one that had to get ready
# How a compiled mmcv says that it has no version for a device.
_LACKS = ('implementation for device', 'not implemented on', 'not compiled with')


@dataclass(frozen=True)
class Setting:
    """How operators are timed.

    Attributes:
        device: A torch device, of CPU or CUDA.
        threads: Threads of torch on a CPU; None to leave them as they are.
        rounds: How often each is timed.
    """

    device: str = 'cpu'
    threads: int | None = None
    rounds: int = 5

    def __post_init__(self) -> None:
        check_device(self.device)
        for name in ('threads', 'rounds'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f'{name} must be at least 1, got {value}')


@dataclass(frozen=True)
class Result:
    """What was found of a case.

    Attributes:
        operator: Name of the function in ``mmcv._ext``.
        inputs: Its inputs in a few words.
        ours: Times of a call of ours; None if it was not timed.
        compiled: Times of a call of the compiled one; None if it was not timed.
        differ: Whether the answers differ, for which nothing was timed.
        note: Why something was not timed.
    """

    operator: str
    inputs: str
    ours: Times | None = None
    compiled: Times | None = None
    differ: bool = False
    note: str = ''

    @property
    def ratio(self) -> float | None:
        """How many times as long ours takes; None if only one was timed."""
        if self.ours is None or self.compiled is None:
            return None
        return self.ours.median / self.compiled.median


def all_cases(*, quick: bool = False) -> list[Case]:
    """Return the cases of all operators.

    Args:
        quick: Make inputs small, to try whether everything works.
    """
    return [*box_cases(quick=quick), *deformable_cases(quick=quick), *map_cases(quick=quick)]


def chosen(cases: Sequence[Case], names: Sequence[str]) -> list[Case]:
    """Return the cases of some operators.

    Args:
        cases: All cases.
        names: Operators, or families of them such as ``roi_align``.

    Raises:
        UserError: If there is no such operator.
    """
    known = {name: name for case in cases for name in (case.family, case.operator)}
    for name in names:
        if name not in known:
            hint = nearest(name, known) or f' There are {", ".join(sorted(known))}.'
            raise UserError(f'--only {name}: there is no such operator.{hint}')
    return [case for case in cases if {case.operator, case.family} & set(names)]


def compiled_functions() -> Functions | None:
    """Return the functions of a compiled mmcv; None if there is none here.

    Raises:
        UserError: If there is one that does not load.
    """
    if ops.source() == 'broken':
        raise UserError(
            'The compiled operators of mmcv do not load: `python -m hiera_mm.doctor` says why.'
        )
    if ops.source() != COMPILED:
        return None
    return vars(importlib.import_module(EXTENSION))


def measure(
    cases: Iterable[Case],
    setting: Setting,
    compiled: Functions | None,
    report: Callable[[str], None] = lambda _: None,
) -> list[Result]:
    """Compare the answers of each case, and time both sides where they agree.

    Args:
        cases: What to do.
        setting: How to measure.
        compiled: The functions of a compiled mmcv; None to time ours alone.
        report: Called with a line about what happens next.
    """
    with on_threads(setting.threads):
        results = []
        for case in cases:
            report(f'{case.operator}: {case.inputs}')
            results.append(_measure(case, setting, compiled))
        return results


def _measure(case: Case, setting: Setting, compiled: Functions | None) -> Result:
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
                return Result(case.operator, case.inputs, differ=True, note=note)
            sides[COMPILED] = compiled
    elif compiled is not None:
        note = 'not in the compiled mmcv'
    times = _times(case, call, sides, setting)
    return Result(case.operator, case.inputs, times[OURS], times.get(COMPILED), note=note)


def answer(functions: Functions, operator: str, call: Call) -> list[Any]:
    """Call an operator on copies of the arguments; return what it returns and what it fills.

    Args:
        functions: The functions of one side.
        operator: Name of the function.
        call: The arguments.
    """
    args = _copies(functions, call)
    returned = functions[operator](*args, **call.settings)
    return [returned, *(args[place] for place in call.filled)]


def _copies(functions: Functions, call: Call) -> tuple[Any, ...]:
    args = tuple(arg.clone() if isinstance(arg, Tensor) else arg for arg in call.args)
    if call.prepare is not None:
        call.prepare(functions, args)
    return args


def difference(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """Return how far two answers are apart, as a share of the largest value of the second.

    Args:
        ours: An answer.
        theirs: The answer that it should be.

    Returns:
        0 for the same answers; infinity for answers of other kinds or shapes, other indices, and
        values that are not finite.
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


def _times(
    case: Case, call: Call, sides: dict[str, Functions], setting: Setting
) -> dict[str, Times]:
    works, calls = {}, {}
    for name, functions in sides.items():
        # What is filled is not emptied between the calls: that is not the operator's work.
        function, args = functions[case.operator], _copies(functions, call)
        calls[name] = _calls_needed(function, args, call, setting.device)

        def work(function: Any = function, args: Any = args, count: int = calls[name]) -> None:
            for _ in range(count):
                function(*args, **call.settings)

        works[name] = work
    # All have been called already.
    times = measure_rounds(works, setting.rounds, warmups=0, device=setting.device)
    return {
        name: Times(tuple(seconds / calls[name] for seconds in one.seconds))
        for name, one in times.items()
    }


def _calls_needed(function: Any, args: tuple[Any, ...], call: Call, device: str) -> int:
    """Return how many calls take long enough to be timed."""
    for _ in range(2):  # the first is slower
        start = time.perf_counter()
        function(*args, **call.settings)
        if torch.device(device).type == 'cuda':
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
        if seconds > SLOW_SECONDS:
            break
    return min(max(math.ceil(LEAST_SECONDS / seconds), 1), MOST_CALLS)
