"""Results as CSV, and as cells of the tables that `hiera_mm.cost.report.table` makes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_csv(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a line for each row, in plain numbers, with the columns that any of them has."""
    rows = list(rows)
    with file.open('w', newline='', encoding='utf-8') as out:
        writer = csv.DictWriter(out, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def written(value: Any, form: str) -> str:
    """Return a value in a format; nothing for None."""
    return '' if value is None else format(value, form)
