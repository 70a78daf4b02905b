from __future__ import annotations

import hashlib
import json
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo.shapes import SEG_CLASSES, make_shapes
from demo.shapes import shapes as shapes_module

SMALL = {'num_train': 4, 'num_val': 2}
TOOL = Path(__file__).parents[2] / 'tools' / 'make_shapes.py'


def digest(root):
    """Relative paths and contents of all files below a folder."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


def test_layout(shapes):
    assert {path.name for path in shapes.root.iterdir()} == {'images', 'annotations', 'shapes.json'}
    for split, count in (('training', 90), ('validation', 60)):
        images = sorted(path.stem for path in (shapes.root / 'images' / split).glob('*.jpg'))
        labels = sorted(path.stem for path in (shapes.root / 'annotations' / split).glob('*.png'))
        assert images == labels and len(images) == count
        assert (shapes.root / 'annotations' / f'instances_{split}.json').is_file()
    recipe = json.loads((shapes.root / 'shapes.json').read_text())
    assert recipe['seed'] == 3 and recipe['classes'] == list(SEG_CLASSES)
    assert (recipe['num_train'], recipe['num_val']) == (90, 60)


def test_label_maps_are_grey_bytes_of_the_images_size(shapes):
    for label_file in sorted(shapes.labels('validation').iterdir()):
        labels = cv2.imread(str(label_file), cv2.IMREAD_UNCHANGED)
        image = cv2.imread(str(shapes.images('validation') / f'{label_file.stem}.jpg'))
        assert labels.dtype == np.uint8 and labels.shape == image.shape[:2]


def test_every_class_occurs_in_both_splits(shapes):
    for split in ('training', 'validation'):
        found = set()
        for file in shapes.labels(split).iterdir():
            found |= set(np.unique(cv2.imread(str(file), cv2.IMREAD_UNCHANGED)).tolist())
        assert found == set(range(len(SEG_CLASSES) + 1))


def test_the_same_seed_gives_the_same_bytes_in_another_process(tmp_path):
    here = make_shapes(tmp_path / 'here', **SMALL, seed=5).root
    arguments = ['--root', str(tmp_path / 'there'), '--num-train=4', '--num-val=2', '--seed=5']
    command = [sys.executable, str(TOOL), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert digest(here) == digest(tmp_path / 'there')
    assert '6/6' in done.stderr and str(tmp_path / 'there') in done.stdout


def test_another_seed_and_the_other_split_give_other_images(tmp_path):
    first = digest(make_shapes(tmp_path / 'a', num_train=4, num_val=4, seed=5).root)
    second = digest(make_shapes(tmp_path / 'b', num_train=4, num_val=4, seed=6).root)
    pictures = [d[key] for d in (first, second) for key in d if key.endswith('.jpg')]
    assert len(pictures) == len(set(pictures)) == 16


def test_an_image_does_not_depend_on_the_counts(tmp_path):
    few = digest(make_shapes(tmp_path / 'few', num_train=2, num_val=1).root)
    more = digest(make_shapes(tmp_path / 'more', num_train=3, num_val=2).root)
    pictures = {key: value for key, value in few.items() if not key.endswith('.json')}
    assert len(pictures) == 6 and pictures.items() <= more.items()


def test_a_set_that_is_there_is_left_alone(tmp_path, monkeypatch):
    make_shapes(tmp_path / 'set', **SMALL)
    monkeypatch.setattr(shapes_module, 'draw_scene', None)  # drawing anything would now fail
    assert make_shapes(tmp_path / 'set', **SMALL).root == tmp_path / 'set'


def test_another_set_is_replaced_only_when_told_to(tmp_path):
    make_shapes(tmp_path / 'set', **SMALL)
    before = digest(tmp_path / 'set')
    with pytest.raises(FileExistsError, match=r"'seed': 0.*--force"):
        make_shapes(tmp_path / 'set', **SMALL, seed=1)
    assert digest(tmp_path / 'set') == before
    make_shapes(tmp_path / 'set', **SMALL, seed=1, overwrite=True)
    assert digest(tmp_path / 'set') == digest(make_shapes(tmp_path / 'new', **SMALL, seed=1).root)
    assert {path.name for path in tmp_path.iterdir()} == {'set', 'new'}


@pytest.mark.parametrize('overwrite', [False, True])
@pytest.mark.parametrize('broken', [None, '{', '[]', '{"format": "other"}'])
def test_a_folder_of_other_things_is_never_touched(tmp_path, overwrite, broken):
    (tmp_path / 'precious.txt').write_text('mine')
    if broken is not None:
        (tmp_path / 'shapes.json').write_text(broken)
    before = digest(tmp_path)
    with pytest.raises(FileExistsError, match='is not a shapes set'):
        make_shapes(tmp_path, **SMALL, overwrite=overwrite)
    assert digest(tmp_path) == before


def test_a_set_with_other_things_in_it_is_not_replaced(tmp_path):
    make_shapes(tmp_path / 'set', **SMALL)
    (tmp_path / 'set' / 'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError, match=r'notes\.txt'):
        make_shapes(tmp_path / 'set', **SMALL, seed=1, overwrite=True)
    assert (tmp_path / 'set' / 'notes.txt').read_text() == 'mine'


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / 'set').mkdir()
    assert len(digest(make_shapes(tmp_path / 'set', **SMALL).root)) == 15


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / 'set').write_text('mine')
    with pytest.raises(FileExistsError, match='set already exists'):
        make_shapes(tmp_path / 'set', **SMALL)


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError('disk full')])
@pytest.mark.parametrize('had_one', [False, True])
def test_interrupted_work_leaves_nothing_behind(tmp_path, monkeypatch, error, had_one):
    root = tmp_path / 'set'
    if had_one:
        make_shapes(root, **SMALL)
    before = digest(tmp_path)
    calls = iter(range(5))

    def fail_at_the_sixth(path, image):
        if next(calls, None) is None:
            raise error
        path.write_bytes(b'')

    with (
        monkeypatch.context() as patch,
        pytest.raises((KeyboardInterrupt, OSError)),
    ):
        patch.setattr(shapes_module, 'write_image', fail_at_the_sixth)
        make_shapes(root, **SMALL, seed=1, overwrite=had_one)
    assert digest(tmp_path) == before
    assert root.exists() == had_one
    make_shapes(root, **SMALL, seed=1, overwrite=had_one)
    assert digest(root) == digest(make_shapes(tmp_path / 'whole', **SMALL, seed=1).root)


@pytest.mark.parametrize('same', [False, True])
def test_two_at_once(tmp_path, monkeypatch, same):
    """While one call works, another one finishes a set in the same place."""
    write_json = shapes_module.write_json

    def let_the_other_finish(path, content):
        write_json(path, content)
        if path.name == 'shapes.json':
            monkeypatch.setattr(shapes_module, 'write_json', write_json)
            make_shapes(tmp_path / 'set', **SMALL, seed=0 if same else 1)

    monkeypatch.setattr(shapes_module, 'write_json', let_the_other_finish)
    if same:
        make_shapes(tmp_path / 'set', **SMALL)
    else:
        with pytest.raises(OSError, match='set'):
            make_shapes(tmp_path / 'set', **SMALL)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ['set']
    assert len(digest(make_shapes(tmp_path / 'set', **SMALL, seed=0 if same else 1).root)) == 15


@pytest.mark.parametrize(
    ('name', 'value'),
    [('num_train', 0), ('num_val', -1), ('seed', -1), ('num_train', 2.5), ('seed', True)],
)
def test_bad_numbers_are_named(tmp_path, name, value):
    with pytest.raises(ValueError, match=f'{name} must be an integer of at least'):
        make_shapes(tmp_path / 'set', **{**SMALL, name: value})
    assert not (tmp_path / 'set').exists()


def test_a_root_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='file'):
        make_shapes(tmp_path / 'file' / 'set', **SMALL)


def test_the_tool_reports_errors_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', [str(TOOL), '--root', str(tmp_path / 'set'), '--num-val', '0'])
    with pytest.raises(SystemExit, match=r'^make_shapes: num_val must be .*, not 0$'):
        runpy.run_path(str(TOOL), run_name='__main__')
