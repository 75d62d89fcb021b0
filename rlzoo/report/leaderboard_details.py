"""What stands beside the scores of some suites: other metrics, every run, scores over an axis."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from rlzoo.core.tasks.ids import base_id, number_of
from rlzoo.report.figures import Line
from rlzoo.report.leaderboard_returns import Rows
from rlzoo.report.leaderboard_table import Row, Table, score_of
from rlzoo.report.records import Record
from rlzoo.report.reference import Reference
from rlzoo.report.statistics import iqm, mean, stratified_bootstrap
from rlzoo.report.tables import MISSING, number, plus_minus

RETURN = "return"
_OF_RETURNS = re.compile(r"(.*_)?(return|gap)")


def words(metric: str) -> str:
    """Return how a table calls a metric: ``train_return`` is ``train return``."""
    return metric.removeprefix("metrics.").replace("_", " ")


def values_of(row: Row, env: str, metric: str) -> dict[int, float]:
    """Return a metric of the runs of a row in one environment, by seed; those that have it."""
    found = {
        record.seed: _value(record, metric)
        for record in row.records
        if record.env == env and record.status == "ok"
    }
    return {seed: value for seed, value in sorted(found.items()) if value is not None}


def _value(record: Record, metric: str) -> float | None:
    if metric == RETURN or metric == "normalized" or metric.startswith("metrics."):
        return score_of(record, metric)
    return record.metrics.get(metric)


def beside_the_score(table: Table) -> Rows:
    """Return headers and rows of the score, the return and the metrics of the suite.

    Every number is a mean with the standard deviation over runs. A published number of the same
    metric, for the same number of steps or the nearest, has a column of its own.
    """
    if not table.facts.metrics:
        return [], []
    metrics = [table.score, *table.facts.metrics]
    if table.score == "normalized":
        metrics.insert(0, RETURN)
    cells = [(row, env) for env in table.envs for row in table.rows if _has_runs(row, env)]
    theirs = {m: [_published(table, row, env, m) for row, env in cells] for m in metrics}
    columns = ["env", "agent", "n"]
    for metric in metrics:
        columns += [words(metric), *_published_head(metric, theirs)]
    rows = []
    for index, (row, env) in enumerate(cells):
        texts = [env, row.name, str(len(values_of(row, env, table.score)))]
        for metric in metrics:
            texts.append(_mean_text(list(values_of(row, env, metric).values()), _digits(metric)))
            if any(theirs[metric]):
                texts.append(_published_text(theirs[metric][index]))
        rows.append(texts)
    return columns, rows


def _has_runs(row: Row, env: str) -> bool:
    return any(record.env == env and record.status == "ok" for record in row.records)


def _published(table: Table, row: Row, env: str, metric: str) -> Reference | None:
    facts, runs = table.facts, [record for record in row.records if record.env == env]
    name = facts.name_of(table.suite, row.agent, row.preset)
    return facts.number(table.suite, name, env, metric, runs)


def _published_head(metric: str, theirs: Mapping[str, Sequence[Reference | None]]) -> list[str]:
    return [f"{words(metric)}, published"] if any(theirs[metric]) else []


def _published_text(reference: Reference | None) -> str:
    if reference is None:
        return MISSING
    steps = "" if reference.steps is None else f" ({reference.steps / 1e6:g}M)"
    return plus_minus(reference.value, reference.sd, _digits(reference.metric)) + steps


def _mean_text(values: Sequence[float], digits: int) -> str:
    if not values:
        return MISSING
    sd = statistics.stdev(values) if len(values) > 1 else None
    return plus_minus(statistics.fmean(values), sd, digits)


def _digits(metric: str) -> int:
    """Return the decimals of a metric: returns need fewer than rates and normalised scores."""
    return 2 if _OF_RETURNS.fullmatch(metric) else 3


def every_run(table: Table) -> Rows:
    """Return headers and rows with median, maximum and IQM over runs, and every run, by its seed.

    For results of which a mean says little, because runs succeed or fail as a whole.
    """
    if not table.facts.every_run:
        return [], []
    rows = []
    for env in table.envs:
        for row in table.rows:
            for metric in (table.score, *table.facts.metrics):
                found = values_of(row, env, metric)
                if found:
                    rows.append([env, row.name, words(metric), *_spread(found, _digits(metric))])
    columns = ["env", "agent", "what", "n", "median", "maximum", "IQM [95 %]", "every run"]
    return columns, rows


def _spread(found: Mapping[int, float], digits: int) -> list[str]:
    values = list(found.values())
    estimate = stratified_bootstrap(np.array(values)[:, None], iqm)
    middle = number(estimate.value, digits)
    if estimate.low is not None and estimate.high is not None:
        middle += f" [{number(estimate.low, digits)}, {number(estimate.high, digits)}]"
    ends = [number(statistics.median(values), digits), number(max(values), digits)]
    return [str(len(values)), *ends, middle, " ".join(number(v, digits) for v in values)]


def dots(table: Table) -> dict[str, dict[str, list[float]]]:
    """Return title of a panel -> agent -> a number per run, where a suite shows every run."""
    panels: dict[str, dict[str, list[float]]] = {}
    for env in table.envs if table.facts.every_run else ():
        for metric in (table.score, *table.facts.metrics):
            found = {row.name: list(values_of(row, env, metric).values()) for row in table.rows}
            found = {name: values for name, values in found.items() if values}
            if found:
                panels[f"{env}\n{words(metric)}"] = found
    return panels


def over_axis(table: Table) -> dict[str, dict[str, Line]]:
    """Return what is drawn over the numbers of the labels: metric -> agent -> line with its band.

    Empty unless the environments are one environment with different numbers.
    """
    numbers = {env: number_of(env) for env in table.envs}
    places = sorted((x, env) for env, x in numbers.items() if x is not None)
    one = len({base_id(env) for env in table.envs}) == 1
    if not table.facts.axis or not one or len(places) < max(2, len(table.envs)):
        return {}
    panels: dict[str, dict[str, Line]] = {}
    # Returns and their normalised scores are the same picture.
    first = RETURN if table.score == "normalized" else table.score
    for metric in (first, *(m for m in table.facts.metrics if not m.endswith("_normalized"))):
        lines = {row.name: _line(row, places, metric) for row in table.rows}
        found = {name: line for name, line in lines.items() if line.x}
        if found:
            panels[words(metric)] = found
    return panels


def _line(row: Row, places: Sequence[tuple[float, str]], metric: str) -> Line:
    found = [(x, list(values_of(row, env, metric).values())) for x, env in places]
    points = [
        (x, stratified_bootstrap(np.array(values)[:, None], mean)) for x, values in found if values
    ]
    x, middle = [x for x, _ in points], [point.value for _, point in points]
    low = [point.value if point.low is None else point.low for _, point in points]
    high = [point.value if point.high is None else point.high for _, point in points]
    has_band = any(point.low is not None for _, point in points)
    return Line(x, middle, low if has_band else None, high if has_band else None)
