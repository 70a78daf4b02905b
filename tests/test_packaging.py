"""What the wheel, the source archive and an editable installation hold, from real builds."""

from __future__ import annotations

import email
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import hiera_mm

ROOT = Path(__file__).parents[1]
FOLDERS = ('benchmarks', 'configs', 'demo', 'docs', 'hiera_mm', 'requirements', 'tests', 'tools')
LEFT_OUT = shutil.ignore_patterns('__pycache__', '.mim')


def run(*args: str | Path, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *args], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, source: Path, target: Path) -> Path:
    """Build with the backend itself, as pip does, but with the packages at hand: no network."""
    target.mkdir(exist_ok=True)
    code = f'from setuptools.build_meta import *; print(build_{kind}({str(target)!r}))'
    return target / run('-c', code, cwd=source).splitlines()[-1]


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file() and '__pycache__' not in path.parts
    }


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """Copy the project: a build leaves files in its source tree."""
    source = tmp_path_factory.mktemp('source')
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=LEFT_OUT)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, source)
    return source


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
    return build('wheel', source, tmp_path_factory.mktemp('wheel'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """Unpack the wheel, which for a pure one is all that an installation does."""
    installed = tmp_path_factory.mktemp('installed')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    return installed


def test_wheel_is_pure_and_holds_the_package_alone(wheel, installed):
    assert wheel.name == f'hiera_mm-{hiera_mm.__version__}-py3-none-any.whl'
    info = f'hiera_mm-{hiera_mm.__version__}.dist-info'
    assert {path.name for path in installed.iterdir()} == {'hiera_mm', info}
    packaged = files(installed / 'hiera_mm')
    modules = {name: text for name, text in packaged.items() if not name.startswith('.mim/')}
    assert modules == {n: t for n, t in files(ROOT / 'hiera_mm').items() if n[:5] != '.mim/'}


@pytest.fixture(scope='module')
def metadata(installed):
    return email.message_from_bytes(next(installed.glob('*.dist-info/METADATA')).read_bytes())


@pytest.fixture(scope='module')
def needs(metadata):
    return [Requirement(text) for text in metadata.get_all('Requires-Dist')]


def test_wheel_asks_for_no_toolbox_unless_told_to(metadata, needs):
    always = {str(need) for need in needs if need.marker is None}
    assert always == {
        'torch>=2.6',
        'torchvision',
        'safetensors',
        'huggingface_hub',
        'filelock',
        'tqdm',
    }
    for extra, package in (('onedl', 'onedl-mmcv'), ('openmmlab', 'mmcv-lite')):
        assert package in {need.name for need in needs if f'"{extra}"' in str(need.marker)}
    assert metadata['Requires-Python'] == '>=3.10'


def test_no_version_is_pinned_so_that_what_a_user_has_may_stay(needs):
    assert not [str(need) for need in needs if '==' in str(need.specifier)]
    extras = {need.name for need in needs if need.marker is not None}
    assert not extras & {'torch', 'torchvision'}


@pytest.mark.parametrize('name', ['newest', 'oldest'])
def test_tested_versions_are_in_the_ranges(needs, name):
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    pins = {}
    for line in lines:
        if text := line.partition('#')[0].strip():
            package, version = text.split('==')
            pins[package] = version
    wrong = [str(n) for n in needs if n.name in pins and not n.specifier.contains(pins[n.name])]
    assert not wrong
    unnamed = {need.name for need in needs if need.marker is not None} - set(pins)
    assert name == 'oldest' or not unnamed  # `make setup` installs no version of its own choice


@pytest.mark.parametrize('folder', ['configs', 'tools'])
def test_wheel_holds_configs_and_tools_where_mim_looks(installed, folder):
    packaged = files(installed / 'hiera_mm' / '.mim' / folder)
    assert packaged
    assert packaged == files(ROOT / folder)


@pytest.mark.slow
def test_packaged_configs_load_without_the_repository(installed, tmp_path):
    code = (
        'import pathlib, sys, hiera_mm\n'
        'from mmengine.config import Config\n'
        'configs = pathlib.Path(hiera_mm.__file__).parent / ".mim" / "configs"\n'
        'for path in configs.rglob("*.py"):\n'
        '    if "_base_" not in path.parts:\n'
        '        assert Config.fromfile(path).model, path\n'
        '        print(path)\n'
    )
    code = f'import sys; sys.path.insert(0, {str(installed)!r})\n{code}'
    loaded = run('-c', code, cwd=tmp_path).splitlines()
    loaded = {Path(line).relative_to(installed / 'hiera_mm/.mim') for line in loaded}
    wanted = (ROOT / 'configs').rglob('*.py')
    assert loaded == {p.relative_to(ROOT) for p in wanted if '_base_' not in p.parts}


@pytest.mark.slow
def test_source_archive_builds_the_same_wheel(source, installed, tmp_path):
    archive = build('sdist', source, tmp_path / 'sdist')
    shutil.unpack_archive(archive, tmp_path, filter='data')
    unpacked = tmp_path / archive.name.removesuffix('.tar.gz')
    for folder in FOLDERS:
        assert files(unpacked / folder) == files(source / folder)
    again = build('wheel', unpacked, tmp_path / 'wheel')
    with zipfile.ZipFile(again) as opened:
        rebuilt = {name: opened.read(name) for name in opened.namelist()}
    assert rebuilt == files(installed)


@pytest.mark.slow
def test_editable_installation_sees_edited_configs(source, tmp_path):
    build('editable', source, tmp_path)
    mim = source / 'hiera_mm' / '.mim'
    try:
        added = source / 'configs' / 'added.py'
        added.write_text('model = None\n')
        assert (mim / 'configs' / 'added.py').read_text() == 'model = None\n'
        assert (mim / 'tools').resolve() == source / 'tools'
        assert (mim / 'model-index.yml').resolve() == source / 'model-index.yml'
    finally:
        added.unlink()
        shutil.rmtree(mim)
