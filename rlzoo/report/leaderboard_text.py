"""The leaderboard as Markdown, CSV, JSON and rows of text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rlzoo.core.safe_files import to_json
from rlzoo.report.figures import Interval
from rlzoo.report.leaderboard_details import beside_the_score, every_run, values_of
from rlzoo.report.leaderboard_returns import Rows, returns_by_env
from rlzoo.report.leaderboard_table import NO_REFERENCE, Cell, Row, Table
from rlzoo.report.reference import Reference
from rlzoo.report.tables import MISSING, markdown_table, number, plus_minus

# A table with more environments than this has them as rows, the agents as columns.
WIDE = 6
_TEXT_COLUMNS = frozenset({"agent", "source", "env", "verdict", "papers", "what", "every run"})


def cell_text(cell: Cell, digits: int) -> str:
    """Return ``mean +- sd (n=3)`` with what failed or is missing, or a word without a score."""
    absent = []
    if cell.failed:
        absent.append(f"{len(cell.failed)} failed" if cell.n else "failed")
    if cell.missing:
        absent.append(f"{len(cell.missing)} missing" if cell.n else "missing")
    if cell.estimate is None:
        return ", ".join(absent) or ("missing" if cell.planned else MISSING)
    text = plus_minus(cell.estimate.value, cell.sd, digits)
    return f"{text} ({', '.join([f'n={cell.n}', *absent])})"


def interval_text(estimate: Interval | None, digits: int) -> str:
    """Return ``value [low, high]``, only the value where there is no interval."""
    if estimate is None:
        return MISSING
    text = number(estimate.value, digits)
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{number(estimate.low, digits)}, {number(estimate.high, digits)}]"


def overview(table: Table) -> Rows:
    """Return headers and rows of the main table: one row per agent.

    Environments are columns; with more than ``WIDE`` of them they are left to :func:`by_env`.
    """
    digits = table.digits
    envs = table.envs if len(table.envs) <= WIDE else ()
    statistics = list(dict.fromkeys(name for row in table.rows for name in row.statistics))
    heads = [f"{name} [95 %]" for name in statistics]
    all_envs = len(table.envs)
    has_gaps = bool(statistics) and any(row.n_envs < all_envs for row in table.rows)
    over = ["envs"] if has_gaps else []
    columns = ["agent", "source", *over, *heads, *envs, "papers", "steps/s"]
    rows = []
    for row in table.rows:
        count = [f"{row.n_envs} of {all_envs}"] * len(over)
        numbers = [interval_text(row.statistics.get(name), digits) for name in statistics]
        cells = [cell_text(cell, digits) for cell in row.cells if cell.env in envs]
        speed = number(row.steps_per_second, 0 if (row.steps_per_second or 0) >= 100 else 1)
        rows.append([row.name, row.source, *count, *numbers, *cells, _verdicts(row), speed])
    return columns, rows


def by_env(table: Table) -> Rows:
    """Return headers and rows of the table with one row per environment, one column per agent."""
    rows = [
        [env, *(cell_text(row.cells[index], table.digits) for row in table.rows)]
        for index, env in enumerate(table.envs)
    ]
    return ["env", *table.names], rows


def against_papers(table: Table) -> Rows:
    """Return headers and rows of our numbers beside the ones that were published for the agent."""
    ours = ["agent", "env", "ours [95 %]", "n", "steps"]
    columns = [*ours, "published", "its n", "its steps", "verdict", "source"]
    rows = []
    for row in table.rows:
        for cell in row.cells:
            if cell.reference is None:
                continue
            published = cell.reference
            text = [row.name, cell.env, interval_text(cell.estimate, table.digits)]
            text += [str(cell.n), _count(cell.steps), published_text(published, table.digits)]
            text += [_count(published.n), _count(published.steps)]
            text += [cell.verdict if cell.estimate else "no score", source_text(published)]
            rows.append(text)
    return columns, rows


def published_by_others(table: Table) -> Rows:
    """Return headers and rows of published numbers of agents that the table does not have.

    With more than ``WIDE`` environments these are the rows.
    """
    digits = table.digits
    texts = {
        agent: [MISSING if r is None else published_text(r, digits) for r in found]
        for agent, found in table.published.items()
    }
    if len(table.envs) > WIDE:
        columns = ["env", *texts]
        return columns, [
            [env, *(found[index] for found in texts.values())]
            for index, env in enumerate(table.envs)
            if texts
        ]
    rows = []
    for agent, found in table.published.items():
        sources = dict.fromkeys(source_text(r) for r in found if r is not None)
        rows.append([agent, *texts[agent], "; ".join(sources)])
    return ["agent", *table.envs, "source"], rows


def published_text(reference: Reference, digits: int) -> str:
    """Return a published number with what its source prints: a range, a deviation, or nothing."""
    if reference.low is not None and reference.high is not None:
        return interval_text(reference, digits)
    return plus_minus(reference.value, reference.sd, digits)


def source_text(reference: Reference) -> str:
    """Return where a number was published."""
    return f"{reference.paper}: {reference.source}"


def _count(number: int | None) -> str:
    return MISSING if number is None else f"{number:,}"


def sections(table: Table) -> Iterator[tuple[str, Rows]]:
    """Yield heading and content of every table that has rows; the heading of the first is empty."""
    yield "", overview(table)
    if len(table.envs) > WIDE:
        yield "Environments", by_env(table)
    others: Rows = ([], []) if table.returns else published_by_others(table)
    for heading, rows in (
        ("Beside the score", beside_the_score(table)),
        ("Every run", every_run(table)),
        ("Returns", returns_by_env(table)),
        ("Against the papers", against_papers(table)),
        ("Published for other agents", others),
    ):
        if rows[1]:
            yield heading, rows


def heading_of(table: Table) -> str:
    """Return ``title (suite, size)``."""
    return f"{table.title} ({table.suite}, {table.size})"


def legend(table: Table) -> str:
    """Return the sentence that says what the numbers are."""
    normalised = "normalised score" if table.scale is None else table.scale.name
    what = {"normalized": normalised, "return": "undiscounted return"}.get(
        table.score, table.score.removeprefix("metrics.").replace("_", " ")
    )
    return (
        f"Numbers: {what} of the last policy, mean +- standard deviation over n runs (seeds); "
        "in brackets, 95 % intervals by stratified bootstrap over runs."
    )


def to_markdown(tables: Sequence[Table]) -> str:
    """Return all tables as one Markdown text."""
    parts = []
    for table in tables:
        parts.append(f"## {heading_of(table)}")
        parts.append(legend(table))
        for heading, (columns, rows) in sections(table):
            if heading:
                parts.append(f"### {heading}")
            parts.append(markdown_table(columns, rows, right=numeric(columns)))
        if table.notes:
            parts.append("\n".join(f"- {note}" for note in table.notes))
    return "\n\n".join(parts or ["No records yet."]) + "\n"


_CSV = (
    *("suite", "size", "source", "agent", "preset", "env", "statistic", "value", "sd", "low"),
    *("high", "n", "failed", "missing", "published", "published_low", "published_high"),
    *("verdict", "published_source", "errors"),
)


def to_csv(tables: Sequence[Table]) -> str:
    """Return one row per cell, and one per statistic over all environments (its env is empty)."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _CSV, lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for row in table.rows:
            head = {"suite": table.suite, "size": table.size, "source": row.source}
            head |= {"agent": row.agent, "preset": row.preset}
            for name, found in row.statistics.items():
                writer.writerow({**head, "statistic": name, **_numbers(found)})
            for cell in row.cells:
                if cell.planned:
                    writer.writerow({**head, "statistic": table.score, **_cell(cell)})
    return text.getvalue()


def to_dict(tables: Sequence[Table]) -> dict[str, Any]:
    """Return everything in the tables as plain values."""
    return {
        "format": "rlzoo-leaderboard",
        "version": 1,
        "tables": [
            {
                "suite": table.suite,
                "size": table.size,
                "title": table.title,
                "score": table.score,
                "envs": list(table.envs),
                "agents": [_row(row, table.facts.metrics) for row in table.rows],
                "published": [
                    asdict(other)
                    for found in table.published.values()
                    for other in found
                    if other is not None
                ],
                "published_returns": [
                    asdict(one) for found in table.returns.values() for one in found if one
                ],
                "notes": list(table.notes),
            }
            for table in tables
        ],
    }


def to_json_text(tables: Sequence[Table]) -> str:
    """Return :func:`to_dict` as JSON."""
    return to_json(to_dict(tables))


def _row(row: Row, metrics: Sequence[str]) -> dict[str, Any]:
    return {
        "name": row.name,
        "agent": row.agent,
        "preset": row.preset,
        "source": row.source,
        "steps_per_second": row.steps_per_second,
        "statistics": {name: _numbers(found) for name, found in row.statistics.items()},
        "cells": [
            {
                "env": cell.env,
                "planned": cell.planned,
                "scores": dict(cell.scores),
                "metrics": {name: values_of(row, cell.env, name) for name in metrics},
                "mean": None if cell.estimate is None else _numbers(cell.estimate),
                "sd": cell.sd,
                "failed": dict(cell.failed),
                "missing": list(cell.missing),
                "published": None if cell.reference is None else asdict(cell.reference),
                "verdict": cell.verdict,
            }
            for cell in row.cells
        ],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    published = cell.reference
    values: dict[str, Any] = {} if cell.estimate is None else _numbers(cell.estimate)
    values |= {"env": cell.env, "n": cell.n, "sd": cell.sd}
    values |= {"failed": len(cell.failed), "missing": len(cell.missing), "verdict": cell.verdict}
    if published is not None:
        low, high = published.interval
        values |= {"published": published.value, "published_low": low}
        values |= {"published_high": high}
        values |= {"published_source": source_text(published)}
    values["errors"] = "; ".join(" ".join(error.split()) for error in cell.failed.values())
    return values


def _numbers(estimate: Any) -> dict[str, Any]:
    return {name: getattr(estimate, name) for name in ("value", "low", "high", "n")}


def _verdicts(row: Row) -> str:
    counts: dict[str, int] = {}
    for cell in row.cells:
        if cell.verdict != NO_REFERENCE and cell.estimate is not None:
            counts[cell.verdict] = counts.get(cell.verdict, 0) + 1
    order = ("below", "inside", "above")
    return ", ".join(f"{counts[name]} {name}" for name in order if name in counts) or NO_REFERENCE


def numeric(columns: Sequence[str]) -> set[str]:
    """Return the headers of the columns that hold numbers."""
    return {name for name in columns if name not in _TEXT_COLUMNS}
