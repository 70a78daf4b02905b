"""READMEs, metafiles and the index name every config of the zoo, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from hiera_mm.weights.catalog import CATALOG

ROOT = Path(__file__).parents[2]
FAMILIES = sorted(
    {
        path.parent.relative_to(ROOT).as_posix()
        for folder in ('coco', 'ade20k')
        for path in (ROOT / 'configs' / folder).rglob('*.py')
    }
)
LETTERS = {'tiny': 'T', 'small': 'S', 'base': 'B', 'base_plus': 'B+', 'large': 'L'}


def configs_of(family):
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / family).glob('*.py')}


def read(path):
    return yaml.safe_load((ROOT / path).read_text(encoding='utf-8'))


def test_the_index_imports_every_metafile_and_names_are_unique():
    assert len(FAMILIES) == 11
    found = [path.relative_to(ROOT).as_posix() for path in ROOT.glob('configs/**/metafile.yml')]
    imported = read('model-index.yml')['Import']
    assert sorted(imported) == sorted(found) == [f'{family}/metafile.yml' for family in FAMILIES]
    metafiles = [read(path) for path in imported]
    for kind in ('Models', 'Collections'):
        names = [item['Name'] for metafile in metafiles for item in metafile[kind]]
        assert len(names) == len(set(names))


@pytest.mark.parametrize('family', FAMILIES)
def test_a_metafile_tells_what_every_config_of_its_folder_says(family, load):
    metafile = read(f'{family}/metafile.yml')
    assert set(metafile) == {'Collections', 'Models'}
    (collection,) = metafile['Collections']
    assert (ROOT / collection['README']) == ROOT / family / 'README.md'
    assert set(collection['Paper']) == {'Title', 'URL'}
    assert {model['Config'] for model in metafile['Models']} == configs_of(family)
    for model in metafile['Models']:
        # Nothing was trained: neither results nor weights.
        assert set(model) == {'Name', 'In Collection', 'Config', 'Metadata'}
        assert model['Name'] == Path(model['Config']).stem
        assert model['In Collection'] == collection['Name']
        data = model['Metadata']
        assert data['Training Data'] == ('COCO' if '/coco/' in family else 'ADE20K')

        config = load(model['Config'].removeprefix('configs/'))
        assert data['Batch Size'] == config.auto_scale_lr.base_batch_size
        assert ('Epochs' in data) != ('Iterations' in data)
        if 'Iterations' in data:
            assert data['Iterations'] == config.train_cfg.max_iters
        elif config.train_cfg.type == 'EpochBasedTrainLoop':
            assert data['Epochs'] == config.train_cfg.max_epochs
        else:  # of the 118,000 training images of COCO
            images = config.train_cfg.max_iters * data['Batch Size']
            assert round(images / 118_000) == data['Epochs']
        arch = CATALOG[config.model.backbone.init_cfg.checkpoint].arch
        backbone, _ = data['Architecture']
        origin = 'SAM 2 ' if arch.startswith('sam2_') else ''
        assert backbone == f'{origin}Hiera-{LETTERS[arch.removeprefix("sam2_")]}'


@pytest.mark.parametrize('family', FAMILIES)
def test_a_readme_lists_every_config_of_its_folder(family):
    text = (ROOT / family / 'README.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| \[([^\]]+)\]\(([^)]+)\) \|.*\| not trained yet \|$', text, re.MULTILINE)
    assert sorted(f'{family}/{link}' for _, link in rows) == sorted(configs_of(family))
    for name, link in rows:
        assert f'{name}.py' == link
    assert 'https://arxiv.org/abs/' in text
    assert 'CC BY-NC 4.0' in text
    assert ('Apache-2.0' in text) == any('sam2' in name for name, _ in rows)
    commands = re.findall(r'^(?:python |)tools/\S+ (configs/\S+\.py)', text, re.MULTILINE)
    assert len(commands) == 2
    assert set(commands) <= configs_of(family)


def test_the_overview_counts_the_families():
    text = (ROOT / 'configs' / 'README.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| \[[^\]]+\]\((\S+)/README\.md\) \| \S+ \| (\d+) \|$', text, re.MULTILINE)
    assert {f'configs/{folder}': int(count) for folder, count in rows} == {
        family: len(configs_of(family)) for family in FAMILIES
    }
    total = sum(int(count) for _, count in rows)
    assert text.count(f'{total} ') >= 2
