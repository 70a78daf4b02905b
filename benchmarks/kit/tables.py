"""Results as tables: in Markdown that is aligned as plain text, too, and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def markdown_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1, keep_empty: bool = False
) -> str:
    """Return a table in Markdown.

    Args:
        head: Names of the columns.
        rows: A cell for each column.
        texts: How many of the first columns are texts, aligned to the left.
        keep_empty: Keep columns that nothing is in.
    """
    used = [i for i in range(len(head)) if keep_empty or any(row[i] for row in rows)]
    lines = [[line[i] for i in used] for line in (head, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lefts = [i < texts for i in used]
    rule = ['-' * width if left else '-' * (width - 1) + ':'
            for width, left in zip(widths, lefts, strict=True)]  # fmt: skip
    return '\n'.join(
        '| {} |'.format(' | '.join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(line, widths, lefts, strict=True)
        ))
        for line in (lines[0], rule, *lines[1:])
    )  # fmt: skip


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
