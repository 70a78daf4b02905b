"""Where a training that was interrupted goes on from."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from mmengine.logging import print_log

from ..errors import CheckpointError
from ..weights.files import read_checkpoint

_NAME = re.compile(r'(?P<kind>epoch|iter)_(?P<number>\d+)\.pth')


def latest_whole_checkpoint(work_dir: str | Path) -> str | None:
    """Find the latest checkpoint of a training that can be read.

    mmengine's note of the latest one is not relied upon: it may be empty or stale, and what it
    names may be damaged.

    Args:
        work_dir: The training's folder.

    Returns:
        The file; None if there is no checkpoint at all.

    Raises:
        CheckpointError: If there are checkpoints and none can be read.
    """
    files = _candidates(Path(work_dir))
    problems = []
    for file in files:
        try:
            read_checkpoint(file)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            print_log(
                f'{problem} Going on from the one before it, {file}.',
                logger='current',
                level=logging.WARNING,
            )
        return str(file)
    if problems:
        raise CheckpointError(
            '--resume: no checkpoint of this training can be read:\n  ' + '\n  '.join(problems)
        )
    return None


def _candidates(work_dir: Path) -> list[Path]:
    """Return the checkpoints of a training, the latest first."""
    note = work_dir / 'last_checkpoint'
    latest = Path(note.read_text(encoding='utf-8').strip()) if note.is_file() else Path()
    if latest.is_file() and not (work_dir / latest.name).is_file():
        folder = latest.parent  # of a config that keeps checkpoints elsewhere
    else:
        folder = work_dir  # the path in the note is stale if the folder was moved
    noted = _NAME.fullmatch(latest.name)
    if noted is None and latest.name:  # of a config that names them in its own way
        return [file for file in (folder / latest.name,) if file.is_file()]
    matches = {file: _NAME.fullmatch(file.name) for file in folder.glob('*.pth')}
    return sorted(
        (file for file, match in matches.items() if match),
        key=lambda file: (
            noted is not None and matches[file]['kind'] == noted['kind'],
            int(matches[file]['number']),
        ),
        reverse=True,
    )
