"""Tables and numbers as plain text, which any terminal, log file and README can hold."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

MISSING = "-"


def number(value: float | None, digits: int = 1) -> str:
    """Return a number with thousands separators; ``-`` for None and NaN."""
    if value is None or value != value:
        return MISSING
    return f"{value:,.{digits}f}"


def plus_minus(mean: float | None, std: float | None, digits: int = 1) -> str:
    """Return ``mean +- std``; only the mean when there is no deviation."""
    if std is None or std != std:
        return number(mean, digits)
    return f"{number(mean, digits)} +- {number(std, digits)}"


def text_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], right: Container[str] = ()
) -> str:
    """Return an aligned table with a rule below its header; no line has trailing blanks.

    Args:
        columns: Headers.
        rows: As many cells as columns each.
        right: Headers of the columns that are aligned to the right.
    """
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(columns, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def markdown_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], right: Container[str] = ()
) -> str:
    """Return the same as a Markdown table; bars inside of cells are escaped."""
    rules = ["--:" if name in right else "---" for name in columns]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in [columns, *rows]]
    if any(len(row) != len(columns) for row in escaped):
        raise ValueError("a row has another number of cells than the header")
    escaped.insert(1, rules)
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)
