"""Tables in Markdown that are aligned as plain text, too."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: Sequence[str]
) -> str:
    """Return a table in Markdown, without the columns that nothing is in.

    Args:
        head: Names of the columns.
        rows: A cell for each column.
        texts: Names of the columns that are texts, aligned to the left; the others are numbers.
    """
    used = [i for i in range(len(head)) if any(row[i] for row in rows)]
    head, rows = [head[i] for i in used], [[row[i] for i in used] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(head, *rows, strict=True)]
    left = [name in texts for name in head]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if is_text else cell.rjust(width)
            for cell, width, is_text in zip(cells, widths, left, strict=True)
        ]
        return f'| {" | ".join(padded)} |'

    rule = [
        '-' * width if text else '-' * (width - 1) + ':'
        for width, text in zip(widths, left, strict=True)
    ]
    return '\n'.join([line(head), line(rule), *map(line, rows)])
