"""The table as papers on Atari print it: returns per game, and the scores over all games below."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from rlzoo.report.leaderboard_table import Row, Table
from rlzoo.report.reference import Reference, on_scale
from rlzoo.report.tables import MISSING, number, plus_minus

Rows = tuple[list[str], list[list[str]]]

# Papers print means over runs, of which no IQM can be computed.
_OF_COLUMNS: dict[str, Callable[[Sequence[float]], float]] = {
    "median": statistics.median,
    "mean": statistics.fmean,
}


def returns_by_env(table: Table) -> Rows:
    """Return headers and rows of undiscounted returns: ours, and those of everybody published.

    The last rows are median, mean and IQM of the scores over the environments of the table, those
    of published columns computed from the column. No rows where no returns were published.
    """
    if not table.returns or table.scale is None:
        return [], []
    ends = (table.scale.low, table.scale.high)
    heads = [name if name in ends else f"{name} (published)" for name in table.returns]
    rows = [
        [env, *(_ours(row, env) for row in table.rows), *map(_theirs, theirs)]
        for env, theirs in zip(table.envs, zip(*table.returns.values(), strict=True), strict=True)
    ]
    for name in ("median", "mean", "IQM"):
        ours = [_over_all(row, name, table) for row in table.rows]
        theirs = [_of_column(found, name, table) for found in table.returns.values()]
        rows.append([f"{name} {table.scale.name}", *ours, *theirs])
    return ["env", *table.names, *heads], rows


def _ours(row: Row, env: str) -> str:
    found = [
        float(value)
        for record in row.records
        if record.env == env and record.status == "ok"
        and (value := (record.final or {}).get("return_mean")) is not None
    ]  # fmt: skip
    if not found:
        return MISSING
    sd = float(np.std(found, ddof=1)) if len(found) > 1 else None
    return f"{plus_minus(statistics.fmean(found), sd)} (n={len(found)})"


def _theirs(reference: Reference | None) -> str:
    return MISSING if reference is None else plus_minus(reference.value, reference.sd)


def _over_all(row: Row, name: str, table: Table) -> str:
    estimate = row.statistics.get(name)
    value = number(None if estimate is None else estimate.value, table.digits)
    return _with_count(value, row.n_envs, table)


def _of_column(found: Sequence[Reference | None], name: str, table: Table) -> str:
    scores = [
        score.value
        for env, reference in zip(table.envs, found, strict=True)
        if reference is not None and (score := on_scale(reference, env)) is not None
    ]
    if name not in _OF_COLUMNS or not scores or not all(map(math.isfinite, scores)):
        return MISSING
    return _with_count(number(_OF_COLUMNS[name](scores), table.digits), len(scores), table)


def _with_count(value: str, n: int, table: Table) -> str:
    """Say over how many environments a number is, if not over all."""
    return value if n in (0, len(table.envs)) else f"{value} ({n} of {len(table.envs)})"
