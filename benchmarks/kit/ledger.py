"""What a long experiment has measured so far, kept so that it can go on after an interruption."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hiera_mm.engine.launch import make_folder
from hiera_mm.errors import UserError


class Ledger:
    """Results by name, in a file that grows by one line for each of them.

    Args:
        file: The JSON Lines file; made if missing.
        setting: Everything that the results depend on. A file that was written under another
            setting is refused, so that no table ever mixes two experiments.
        fresh: Forget what the file holds.

    Raises:
        UserError: If the file was written under another setting, or by something else, or cannot be
            written.
    """

    def __init__(self, file: Path, setting: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.file = file
        self.results: dict[str, Any] = {}
        self._setting = json.loads(json.dumps(setting))
        make_folder(file.parent)
        if fresh or not file.exists():
            self._begin()
        else:
            self._read()

    def add(self, name: str, result: object) -> None:
        """Keep a result; it is on the disk when this returns."""
        with self.file.open('a', encoding='utf-8') as file:
            file.write(json.dumps({'name': name, 'result': result}) + '\n')
            file.flush()
            os.fsync(file.fileno())
        self.results[name] = json.loads(json.dumps(result))

    def _begin(self) -> None:
        new = self.file.with_suffix('.new')
        new.write_text(json.dumps({'setting': self._setting}) + '\n', encoding='utf-8')
        new.replace(self.file)

    def _read(self) -> None:
        text = self.file.read_text(encoding='utf-8')
        # A writer that was killed leaves half a line.
        whole, _, rest = text.rpartition('\n')
        try:
            first, *records = [json.loads(line) for line in whole.splitlines()]
            setting = first['setting']
            self.results = {record['name']: record['result'] for record in records}
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f'{self.file} is not a file of results that this tool wrote. Move it away, or '
                'choose another --work-dir.'
            ) from None
        if setting != self._setting:
            names = sorted({*setting, *self._setting})
            changed = [name for name in names if setting.get(name) != self._setting.get(name)]
            raise UserError(
                f'{self.file} holds results of another setting ({", ".join(changed)} changed). '
                'Choose another --work-dir, or give --fresh to measure anew.'
            )
        if rest:
            # Cut off, not written anew: there is no moment at which results could be lost.
            os.truncate(self.file, len(f'{whole}\n'.encode()))
