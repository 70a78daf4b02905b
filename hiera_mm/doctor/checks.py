"""The known bad combinations, one small function each, and their cures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hiera_mm.doctor.facts import DISTRIBUTIONS, FOUNDATION, PKG_RESOURCES, TOOLBOXES, Facts


@dataclass(frozen=True)
class Problem:
    """Something wrong with an environment.

    Attributes:
        what: What is wrong, in one sentence.
        cure: What to do about it, with the command where there is one.
        harmless: True if hiera_mm works all the same.
    """

    what: str
    cure: str
    harmless: bool = False


def diagnose(facts: Facts) -> list[Problem]:
    """Return the problems of an environment, the one to cure first in front."""
    return [problem for check in CHECKS if (problem := check(facts)) is not None]


def doubled_distributions(facts: Facts) -> Problem | None:
    """Two distributions of one import name overwrite each other's files."""
    doubled = [names for name in DISTRIBUTIONS if len(names := facts.installed(name)) > 1]
    if not doubled:
        return None
    pairs = '; '.join(' and '.join(names) for names in doubled)
    return Problem(f'Installed over one another: {pairs}.', _start_over(facts))


def mixed_stack(facts: Facts) -> Problem | None:
    """Forks and originals side by side are not tested by anybody."""
    if facts.stack != 'mixed' or doubled_distributions(facts):
        return None
    names = ', '.join(facts.toolbox_distributions)
    return Problem(f'Forks and originals are mixed: {names}.', _start_over(facts))


def missing_distributions(facts: Facts) -> Problem | None:
    """The foundation and at least one toolbox must be there."""
    missing = [
        name for name in DISTRIBUTIONS if name not in TOOLBOXES and not facts.installed(name)
    ]
    if not any(facts.installed(name) for name in TOOLBOXES):
        missing.append(' or '.join(TOOLBOXES))
    if not missing:
        return None
    return Problem(f'Not installed: {", ".join(missing)}.', _install(facts))


def broken_foundation(facts: Facts) -> Problem | None:
    """The first thing in the order of dependence that cannot be imported."""
    return _first_broken(facts, FOUNDATION)


def broken_mmdet(facts: Facts) -> Problem | None:
    """MMDetection does not import although all below it does."""
    return _broken_toolbox(facts, 'mmdet')


def broken_mmseg(facts: Facts) -> Problem | None:
    """MMSegmentation does not import although all below it does."""
    return _broken_toolbox(facts, 'mmseg')


def cpu_torch_beside_gpu(facts: Facts) -> Problem | None:
    """A GPU that torch cannot use because it was built without CUDA."""
    if not facts.driver_devices or facts.torch_cuda or 'torch' in facts.errors:
        return None
    if 'torch' not in facts.versions:
        return None
    return Problem(
        f'This machine has {", ".join(facts.driver_devices)}, but torch '
        f'{facts.versions["torch"]} is a build for CPU only.',
        'pip install --force-reinstall torch torchvision',
    )


def unusable_gpu(facts: Facts) -> Problem | None:
    """A GPU that torch should be able to use and cannot, mostly because of an old driver."""
    if not facts.driver_devices or not facts.torch_cuda or facts.devices:
        return None
    return Problem(
        f'This machine has {", ".join(facts.driver_devices)}, but torch, built for CUDA '
        f'{facts.torch_cuda}, cannot use it.',
        'Update the NVIDIA driver, or install a torch and torchvision built for an older CUDA '
        '(https://pytorch.org/get-started/previous-versions); look at CUDA_VISIBLE_DEVICES too.',
    )


def removed_find_loader(facts: Facts) -> Problem | None:
    """The original mmengine calls a function that Python 3.14 no longer has."""
    if 'mmengine' not in facts.versions or _release(facts.python) < (3, 14):
        return None
    return Problem(
        f'mmengine {facts.versions["mmengine"]} calls pkgutil.find_loader, which Python '
        f'{facts.python} no longer has.',
        "Use Python 3.13 or older, or the maintained forks: pip install 'hiera_mm[onedl]'",
    )


def weights_only(facts: Facts) -> Problem | None:
    """The original mmengine cannot reload its own checkpoints with today's torch."""
    torch, mmengine = facts.versions.get('torch'), facts.versions.get('mmengine')
    if torch is None or mmengine is None or _release(torch) < (2, 6):
        return None
    return Problem(
        f'mmengine {mmengine} alone cannot reload its own checkpoints with torch {torch}.',
        "Use hiera_mm's own tools, which read them safely. A script of yours does the same after "
        'hiera_mm.engine.make_loading_safe().',
        harmless=True,
    )


def missing_pkg_resources(facts: Facts) -> Problem | None:
    """The original mmengine finds other packages' configs with a dropped part of setuptools."""
    if 'mmengine' not in facts.versions or PKG_RESOURCES not in facts.errors:
        return None
    return Problem(
        f'mmengine {facts.versions["mmengine"]} finds no configs of other packages (`mmdet::...`, '
        'get_config) without pkg_resources.',
        "pip install 'setuptools<82'",
        harmless=True,
    )


CHECKS: tuple[Callable[[Facts], Problem | None], ...] = (
    doubled_distributions,
    mixed_stack,
    missing_distributions,
    broken_foundation,
    broken_mmdet,
    broken_mmseg,
    cpu_torch_beside_gpu,
    unusable_gpu,
    removed_find_loader,
    weights_only,
    missing_pkg_resources,
)

_NUMPY_1 = re.compile(
    r'_ARRAY_API|numpy\.core\.multiarray failed|numpy\.dtype size changed|compiled using NumPy 1'
)


def _broken_toolbox(facts: Facts, toolbox: str) -> Problem | None:
    if not facts.installed(toolbox) or broken_foundation(facts):
        return None
    return _first_broken(facts, TOOLBOXES[toolbox])


def _first_broken(facts: Facts, names: Iterable[str]) -> Problem | None:
    """Explain the first of these modules that cannot be imported."""
    for name in names:
        package = name.partition('.')[0]
        missing = package in DISTRIBUTIONS and not facts.installed(package)
        if name in facts.errors and not missing:
            error = ' '.join(facts.errors[name].split())
            shown = error if len(error) <= 200 else f'{error[:197]}...'
            return Problem(f'{name} cannot be imported: {shown}', _cure(facts, name, error))
    return None


def _cure(facts: Facts, name: str, error: str) -> str:
    """The cure for an import that fails."""
    if _NUMPY_1.search(error):
        return (
            "Something compiled for NumPy 1 meets NumPy 2: pip install 'numpy<2', or install "
            f'again what provides {name}.'
        )
    if name == 'torchvision':
        return (
            'torch and torchvision do not fit; take both from the same place: '
            'pip install --force-reinstall torch torchvision'
        )
    if name == 'cv2' and re.search(r'lib(GL|gthread|glib)', error):
        return (
            'OpenCV misses a system library: apt-get install libgl1 libglib2.0-0, or '
            'pip uninstall -y opencv-python opencv-python-headless && '
            'pip install opencv-python-headless'
        )
    if name == 'mmcv._ext':
        return (
            'This mmcv was compiled for another torch or Python. To use torchvision instead: '
            f'pip uninstall -y {" ".join(facts.installed("mmcv"))} && '
            f'{_install(facts, "--no-cache-dir")}. To compile it again: docs/operators.md.'
        )
    if 'MMCV==' in error:  # the versions that a toolbox asserts, in another distribution's name
        return f'pip uninstall -y {" ".join(facts.installed("mmcv"))} && {_install(facts)}'
    return _install(facts)


def _release(version: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(number) for number in re.findall(r'\d+', version)[:2])


def _install(facts: Facts, options: str = '') -> str:
    """The command that installs the stack that is there, or the default one."""
    extra = 'openmmlab' if facts.stack == 'originals' else 'onedl'
    return f"{f'pip install {options}'.strip()} 'hiera_mm[{extra}]'"


def _start_over(facts: Facts) -> str:
    """The commands that leave one stack where there were two."""
    names = ' '.join(facts.toolbox_distributions)
    return (
        f"pip uninstall -y {names} && pip install 'hiera_mm[onedl]' "
        '(or hiera_mm[openmmlab] for the originals)'
    )
