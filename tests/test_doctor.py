"""The doctor: each known bad combination has a check, and none of them can stop it."""

import dataclasses
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import hiera_mm
from hiera_mm.doctor import Facts, diagnose, gather, main, report

HEALTHY = Facts(
    python='3.11.7',
    versions={
        'torch': '2.14.1',
        'torchvision': '0.29.1',
        'onedl-mmengine': '0.10.12',
        'onedl-mmcv': '2.3.6',
        'onedl-mmdetection': '3.5.1',
        'onedl-mmsegmentation': '1.4.2',
    },
    operators='torchvision',
    torch_cuda='13.0',
    devices=('NVIDIA H100',),
    driver_devices=('NVIDIA H100',),
    cores=8,
)
ORIGINALS = {
    'torch': '2.5.1',
    'torchvision': '0.20.1',
    'mmengine': '0.10.7',
    'mmcv-lite': '2.1.0',
    'mmdet': '3.3.0',
    'mmsegmentation': '1.2.2',
}


def ill(**changes):
    return dataclasses.replace(HEALTHY, **changes)


def more(**versions):
    renamed = {name.replace('_', '-'): version for name, version in versions.items()}
    return ill(versions=HEALTHY.versions | renamed)


def originals(**changes):
    versions = ORIGINALS | changes.pop('versions', {})
    versions = {name: version for name, version in versions.items() if version is not None}
    return ill(versions=versions, **changes)


def test_healthy_environments_have_no_problem():
    assert diagnose(HEALTHY) == []
    assert diagnose(originals()) == []
    assert report(HEALTHY, []).endswith('All is well.')


BROKEN = {
    'fork over original': (
        more(mmengine='0.10.7'),
        'onedl-mmengine and mmengine',
        'pip uninstall -y onedl-mmengine mmengine onedl-mmcv',
    ),
    'mmcv over mmcv-lite': (
        originals(versions={'mmcv': '2.1.0'}),
        'mmcv and mmcv-lite',
        'pip uninstall -y mmengine mmcv mmcv-lite mmdet mmsegmentation',
    ),
    'mixed': (
        originals(versions={'mmsegmentation': None, 'onedl-mmsegmentation': '1.4.2'}),
        'mixed: mmengine, mmcv-lite, mmdet, onedl-mmsegmentation',
        "mmdet onedl-mmsegmentation && pip install 'hiera_mm[onedl]'",
    ),
    'nothing installed': (
        ill(versions={}, errors={'torch': "ModuleNotFoundError: No module named 'torch'"}),
        'Not installed: torch, torchvision, mmengine, mmcv, mmdet or mmseg',
        "pip install 'hiera_mm[onedl]'",
    ),
    'torchvision for another torch': (
        ill(
            errors={
                'torchvision': 'RuntimeError: operator torchvision::nms does not exist',
                'mmengine': 'RuntimeError: operator torchvision::nms does not exist',
                'mmdet': 'RuntimeError: operator torchvision::nms does not exist',
            }
        ),
        'torchvision cannot be imported',
        'pip install --force-reinstall torch torchvision',
    ),
    'OpenCV without libGL': (
        ill(errors={'cv2': 'ImportError: libGL.so.1: cannot open shared object file'}),
        'libGL.so.1',
        'apt-get install libgl1',
    ),
    'mmcv compiled for another torch': (
        ill(errors={'mmcv._ext': 'ImportError: _ext.so: undefined symbol: _ZN2at4_ops'}),
        'undefined symbol',
        "pip uninstall -y onedl-mmcv && pip install --no-cache-dir 'hiera_mm[onedl]'",
    ),
    'mmcv compiled for NumPy 1': (
        ill(errors={'mmcv._ext': 'ImportError: numpy.core.multiarray failed to import'}),
        'mmcv._ext cannot be imported',
        "pip install 'numpy<2'",
    ),
    'mmcv too new for mmdet': (
        originals(
            versions={'mmcv-lite': None, 'mmcv': '2.2.0'},
            errors={'mmdet': 'AssertionError: MMCV==2.2.0 is used but incompatible.'},
        ),
        'MMCV==2.2.0',
        "pip uninstall -y mmcv && pip install 'hiera_mm[openmmlab]'",
    ),
    'mmseg without ftfy': (
        originals(errors={'mmseg.models': "ModuleNotFoundError: No module named 'ftfy'"}),
        'ftfy',
        "pip install 'hiera_mm[openmmlab]'",
    ),
    'half a package': (
        originals(errors={'mmdet': "ModuleNotFoundError: No module named 'mmdet.structures'"}),
        'mmdet.structures',
        'pip install --force-reinstall --no-deps mmdet==3.3.0',
    ),
    'CPU torch beside a GPU': (
        ill(torch_cuda=None, devices=()),
        'NVIDIA H100, but torch 2.14.1 is a build for CPU only',
        'pip install --force-reinstall torch torchvision',
    ),
    'old driver': (ill(devices=()), 'CUDA 13.0, cannot use it', 'Update the NVIDIA driver'),
    'find_loader is gone': (originals(python='3.14.0'), 'pkgutil.find_loader', 'Python 3.13'),
}


@pytest.mark.parametrize(('facts', 'what', 'cure'), BROKEN.values(), ids=BROKEN)
def test_names_what_is_broken_and_the_cure(facts, what, cure):
    problems = diagnose(facts)
    found = [problem for problem in problems if what in problem.what]
    assert len(found) == 1, problems
    assert cure in found[0].cure
    assert not found[0].harmless
    assert 'All is well' not in report(facts, problems)


NOTED = {
    'weights_only': (originals(versions={'torch': '2.6.0+cu124'}), 'checkpoints with torch 2.6.0'),
    'pkg_resources': (originals(errors={'pkg_resources': 'ModuleNotFoundError'}), 'get_config'),
}


@pytest.mark.parametrize(('facts', 'what'), NOTED.values(), ids=NOTED)
def test_notes_what_is_harmless(facts, what):
    (problem,) = diagnose(facts)
    assert what in problem.what
    assert problem.harmless
    assert report(facts, [problem]).endswith('All is well.')


def test_reports_only_the_first_of_a_chain_of_failing_imports():
    chain = ('torchvision', 'mmengine', 'mmcv', 'mmcv._ext', 'mmcv.ops', 'mmdet', 'mmseg')
    problems = diagnose(ill(errors=dict.fromkeys(chain, 'ImportError: the same')))
    assert [problem.what for problem in problems] == [
        'torchvision cannot be imported: ImportError: the same'
    ]


def test_reports_failing_toolboxes_side_by_side():
    errors = {'mmdet.models': 'ImportError: one', 'mmseg.models': 'ImportError: two'}
    assert [problem.what[-3:] for problem in diagnose(ill(errors=errors))] == ['one', 'two']


def test_a_toolbox_that_is_not_wanted_is_no_problem():
    versions = {name: each for name, each in HEALTHY.versions.items() if 'seg' not in name}
    errors = dict.fromkeys(('mmseg', 'mmseg.models'), "ModuleNotFoundError: No module 'mmseg'")
    facts = ill(versions=versions, errors=errors)
    assert diagnose(facts) == []
    assert 'mmseg        not installed' in report(facts, [])


def test_the_report_fits_on_a_screen():
    text = report(HEALTHY, [])
    assert len(text.splitlines()) <= 24
    assert max(map(len, text.splitlines())) <= 100 + len(sys.executable)


@pytest.mark.parametrize(
    ('facts', 'status'), [(HEALTHY, 0), (NOTED['weights_only'][0], 0), (ill(devices=()), 1)]
)
def test_the_exit_status_says_whether_something_is_broken(monkeypatch, capsys, facts, status):
    monkeypatch.setattr(sys, 'argv', ['doctor'])
    monkeypatch.setattr('hiera_mm.doctor.gather', lambda: facts)
    assert main() == status
    assert ('BROKEN' in capsys.readouterr().out) == bool(status)


@pytest.mark.slow
def test_looks_at_this_environment():
    facts = gather()
    assert facts.python == '.'.join(map(str, sys.version_info[:3]))
    assert facts.versions['torch'] == metadata.version('torch')
    assert facts.stack in ('onedl forks', 'originals')
    assert facts.operators == hiera_mm.ops.source()
    assert not {'torch', 'mmcv.ops', 'mmdet.models', 'mmseg.models'} & set(facts.errors)


@pytest.mark.parametrize(
    ('package', 'source', 'what'),
    [
        (
            'cv2',
            'import os, signal; os.kill(os.getpid(), signal.SIGSEGV)',
            'cv2 cannot be imported: importing it ends the Python process',
        ),
        (
            'torch',
            'raise OSError("libcudart.so.13: cannot open shared object file")',
            'torch cannot be imported: OSError: libcudart.so.13: cannot open shared object file',
        ),
        (
            'safetensors',
            'raise ImportError("not for this Python")',
            'hiera_mm.backbone cannot be imported: ImportError: not for this Python',
        ),
        pytest.param(
            'torchvision',
            'raise RuntimeError("operator torchvision::nms does not exist")',
            'operator torchvision::nms does not exist',
            marks=pytest.mark.slow,
        ),
    ],
)
def test_survives_broken_packages(tmp_path, monkeypatch, package, source, what):
    (tmp_path / f'{package}.py').write_text(source)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path), prepend=':')
    result = subprocess.run(
        [sys.executable, '-m', 'hiera_mm.doctor'],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(hiera_mm.__file__).parents[1],
    )
    assert result.returncode == 1, result.stderr
    assert what in result.stdout
    assert result.stdout.count('BROKEN') == 1
    assert ('hiera_mm cannot work here' in result.stderr) == (package in ('torch', 'safetensors'))
