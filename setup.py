"""Build recipe of hiera_mm: what is installed, and where mim finds the configs and tools."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()
MIM_FILES = ('configs', 'tools', 'model-index.yml')


def read_version() -> str:
    """Return `__version__` of hiera_mm, read as text: importing it would need torch."""
    text = (ROOT / 'hiera_mm' / '__init__.py').read_text(encoding='utf-8')
    found = re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)
    if found is None:
        raise RuntimeError("hiera_mm/__init__.py has no line of the form __version__ = '1.2.3'.")
    return found.group(1)


def read_requirements(name: str) -> list[str]:
    """Return the requirements in requirements/`name`.txt."""
    text = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8')
    lines = [line.partition('#')[0].strip() for line in text.splitlines()]
    return [line for line in lines if line]


class BuildWithMimFiles(build_py):
    """Puts the configs and tools into `hiera_mm/.mim`, where mim and mmengine look for them.

    A wheel gets copies. An editable installation gets links, so that an edited config counts.
    """

    def run(self) -> None:
        """Build the package, then add its `.mim` folder."""
        super().run()
        package = ROOT if self.editable_mode else Path(self.build_lib).resolve()
        target = package / 'hiera_mm' / '.mim'
        shutil.rmtree(target, ignore_errors=True)  # an earlier build may hold files since deleted
        target.mkdir(parents=True)
        for name in MIM_FILES:
            if self.editable_mode:
                (target / name).symlink_to(os.path.relpath(ROOT / name, target))
            elif (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns('__pycache__')
                shutil.copytree(ROOT / name, target / name, ignore=ignored)
            else:
                shutil.copy2(ROOT / name, target / name)


setup(
    name='hiera_mm',
    version=read_version(),
    description='The Hiera backbone for MMDetection and MMSegmentation',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords='computer vision, object detection, semantic segmentation, vision transformer, Hiera',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['hiera_mm', 'hiera_mm.*']),
    python_requires='>=3.10',
    # The toolboxes are extras: the forks and the originals share their import names, so that
    # asking for either here could install one over the other. No version is pinned, or it would
    # replace what a user has; those that are tested stand in requirements/newest.txt, oldest.txt.
    install_requires=[
        'torch>=2.6',
        'torchvision',
        'safetensors',
        'huggingface_hub',
        'filelock',
        'tqdm',
    ],
    extras_require={name: read_requirements(name) for name in ('onedl', 'openmmlab', 'test')},
    cmdclass={'build_py': BuildWithMimFiles},
    zip_safe=False,
)
