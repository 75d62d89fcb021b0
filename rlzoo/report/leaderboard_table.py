"""The leaderboard as values: which runs count, what their scores are, what is missing.

A table has one row per agent, preset and source, one cell per environment. Cells that were planned
and have no result are kept, as ``missing`` or ``failed``: a mean over the rest would look better
than it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rlzoo.core.tasks.scores import Scale, normalized_score, scale_of
from rlzoo.report.records import Key, Record, latest
from rlzoo.report.reference import Reference, load_reference, published_names, verdict
from rlzoo.report.statistics import (
    Estimate,
    iqm,
    mean,
    median,
    optimality_gap,
    stratified_bootstrap,
)
from rlzoo.report.suite_facts import OWN
from rlzoo.report.suite_facts import SuiteFacts as SuiteFacts

NO_REFERENCE = "no reference"
STATISTICS = {"IQM": iqm, "mean": mean, "median": median}


@dataclass(frozen=True)
class Cell:
    """One agent in one environment.

    Args:
        env: Id of the environment.
        scores: Scores of the runs that have one, by seed.
        estimate: Their mean with a 95 % interval; None without scores.
        sd: Sample standard deviation over runs; None for fewer than two.
        failed: Seeds that failed, with the reason.
        missing: Seeds that were planned and have no score.
        planned: Whether the suite has this cell at all.
        steps: Steps of the longest of its runs; None if none says it.
        reference: The number that was published for it.
        verdict: ``below``, ``inside`` or ``above`` its interval, or ``no reference``.
    """

    env: str
    scores: Mapping[int, float]
    estimate: Estimate | None
    sd: float | None
    failed: Mapping[int, str]
    missing: tuple[int, ...]
    planned: bool
    steps: int | None
    reference: Reference | None
    verdict: str

    @property
    def n(self) -> int:
        """Number of runs with a score."""
        return len(self.scores)


@dataclass(frozen=True)
class Row:
    """One agent with one preset, from one source.

    Args:
        name: How the table calls it; no two rows of a table share it.
        agent: Name of the agent.
        preset: Name of its configuration.
        source: Who made the records.
        cells: One per environment of the table.
        records: Those that count, failed ones as well, by environment and seed.
        statistics: Over all environments with scores, where these have a common scale.
        steps_per_second: Median over its runs; None if none says it.
    """

    name: str
    agent: str
    preset: str
    source: str
    cells: tuple[Cell, ...]
    records: tuple[Record, ...] = field(repr=False)
    statistics: Mapping[str, Estimate]
    steps_per_second: float | None

    @property
    def matrix(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Scores ``[n_runs, n_envs]``; NaN where a cell has fewer runs than another."""
        return score_matrix(self.cells)

    @property
    def n_envs(self) -> int:
        """Number of environments with at least one score."""
        return sum(cell.n > 0 for cell in self.cells)


@dataclass(frozen=True)
class Table:
    """All agents of one suite in one size.

    Args:
        suite: Name of the suite.
        size: Its size.
        title: Heading.
        score: What is compared, as in :class:`SuiteFacts`.
        envs: Environments, in the order of the suite.
        rows: Where there is one scale the best first, those with all environments before others;
            else in the order of their names.
        published: Agents that the table does not have -> what was published for them, per
            environment.
        notes: What a reader must know: missing cells, single runs, failures.
        returns: Everybody for whom returns were published, the ends of the scale included -> those
            returns, per environment; empty unless scores are computed from them.
        facts: What else is known about the suite.
    """

    suite: str
    size: str
    title: str
    score: str
    envs: tuple[str, ...]
    rows: tuple[Row, ...]
    published: Mapping[str, tuple[Reference | None, ...]]
    notes: tuple[str, ...]
    returns: Mapping[str, tuple[Reference | None, ...]] = field(default_factory=dict)
    facts: SuiteFacts = field(default_factory=SuiteFacts, repr=False)

    @property
    def names(self) -> list[str]:
        """Names of the rows."""
        return [row.name for row in self.rows]

    @property
    def scale(self) -> Scale | None:
        """The scale of the scores, None where they are not normalised on a known one."""
        if self.score != "normalized" or not self.envs:
            return None
        scale = scale_of(self.envs[0])
        return scale if all(scale_of(env) is scale for env in self.envs) else None

    @property
    def digits(self) -> int:
        """Decimals that tell scores apart: one for returns and percent, three for rates."""
        if self.scale is not None:
            return self.scale.digits
        largest = max(
            (abs(s) for r in self.rows for c in r.cells for s in c.scores.values()), default=0
        )
        return 1 if largest > 2 else 3


def score_matrix(cells: Sequence[Cell]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the scores of some cells as ``[n_runs, n_cells]``, filled up with NaN."""
    columns = [list(cell.scores.values()) for cell in cells]
    matrix = np.full((max(map(len, columns), default=0), len(columns)), np.nan)
    for index, column in enumerate(columns):
        matrix[: len(column), index] = column
    return matrix


def score_of(record: Record, score: str) -> float | None:
    """Return what is compared of one run; None if it failed or does not have it."""
    if record.status != "ok":
        return None
    final = record.final or {}
    if score.startswith("metrics."):
        return record.metrics.get(score.removeprefix("metrics."))
    if score == "normalized" and final.get("normalized") is None:
        value = final.get("return_mean")
        return None if value is None else normalized_score(record.env, value)
    return final.get("normalized" if score == "normalized" else "return_mean")


def tabulate(
    records: Iterable[Record], facts: Mapping[str, SuiteFacts] | None = None
) -> list[Table]:
    """Make one table per suite and size; the order of the records does not matter.

    Args:
        records: Of any number of suites and sources; of several for one cell the one counts that
            :func:`rlzoo.report.records.latest` chooses.
        facts: Name of a suite -> what is known about it. Of others, returns are compared and the
            cells of their records are all that there is.
    """
    groups: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for record in records:
        group = groups.setdefault((record.suite, record.size), {})
        group.setdefault(record.source, []).append(record)
    known = facts or {}
    return [
        # Per source: two libraries may have an agent of the same name.
        _table(suite, size, {s: list(latest(r).values()) for s, r in group.items()}, known)
        for (suite, size), group in sorted(groups.items())
    ]


def _table(
    suite: str, size: str, by_source: dict[str, list[Record]], known: Mapping[str, SuiteFacts]
) -> Table:
    facts = known.get(suite, SuiteFacts())
    planned = None
    if facts.planned is not None:
        planned = tuple(key for key in facts.planned if key[:2] == (suite, size)) or None
    found = {record.env for records in by_source.values() for record in records}
    order = dict.fromkeys(key[4] for key in planned or ())
    envs = (*(env for env in order if env in found), *sorted(found - set(order)))
    has_scale = facts.score != "return" or len(envs) == 1
    rows = []
    for source, records in by_source.items():
        runs: dict[tuple[str, str], list[Record]] = {}
        for record in records:
            runs.setdefault((record.agent, record.preset), []).append(record)
        for (agent, preset), ours in runs.items():
            plan = _seeds(planned, agent, preset) if source == OWN else None
            rows.append(_row(ours, plan, envs, facts, has_scale))
    rows = _named(rows)
    if has_scale:
        # Numbers over fewer environments cannot be compared: those agents come last.
        rows.sort(
            key=lambda row: (-row.n_envs, -row.statistics["IQM"].value if row.statistics else 0.0)
        )
    others = _others(suite, envs, rows, facts)
    title = facts.title or suite
    every = [record for row in rows for record in row.records]
    returns = facts.returns(suite, envs, every) if facts.converts else {}
    table = Table(suite, size, title, facts.score, envs, tuple(rows), others, (), returns, facts)
    return replace(table, notes=tuple(_notes(table, planned, has_scale)))


def _others(
    suite: str, envs: Sequence[str], rows: Sequence[Row], facts: SuiteFacts
) -> dict[str, tuple[Reference | None, ...]]:
    """Return agent -> published numbers of agents that have no row."""
    absent = {r.agent for r in load_reference(suite) if r.metric in published_names(facts.metric)}
    absent -= {facts.name_of(suite, row.agent, row.preset) for row in rows}
    if facts.converts:  # 0 and the top in every environment
        absent -= {end for env in envs if (s := scale_of(env)) for end in (s.low, s.high)}
    runs: dict[str, list[Record]] = {env: [] for env in envs}
    for row in rows:
        for record in row.records:
            runs[record.env].append(record)
    found = {
        agent: tuple(facts.reference(suite, agent, env, runs[env]) for env in envs)
        for agent in sorted(absent)
    }
    return {agent: numbers for agent, numbers in found.items() if any(numbers)}


def _seeds(
    planned: Sequence[Key] | None, agent: str, preset: str
) -> dict[str, tuple[int, ...]] | None:
    """Environment -> seeds that the suite has for an agent; None if it does not know the agent."""
    seeds: dict[str, tuple[int, ...]] = {}
    for _, _, of_agent, of_preset, env, seed in planned or ():
        if (of_agent, of_preset) == (agent, preset):
            seeds[env] = (*seeds.get(env, ()), seed)
    return seeds or None


def _row(
    records: Sequence[Record],
    plan: Mapping[str, tuple[int, ...]] | None,
    envs: Sequence[str],
    facts: SuiteFacts,
    has_scale: bool,
) -> Row:
    by_env: dict[str, list[Record]] = {env: [] for env in envs}
    for record in records:
        by_env[record.env].append(record)
    cells = tuple(_cell(env, by_env[env], plan, facts, records[0]) for env in envs)
    first = records[0]
    speeds = [r.steps_per_second for r in records if r.steps_per_second is not None]
    return Row(
        name=first.agent,
        agent=first.agent,
        preset=first.preset,
        source=first.source,
        cells=cells,
        records=tuple(records),
        statistics=_statistics(cells, facts.target) if has_scale else {},
        steps_per_second=float(np.median(speeds)) if speeds else None,
    )


def _cell(
    env: str,
    records: Sequence[Record],
    plan: Mapping[str, tuple[int, ...]] | None,
    facts: SuiteFacts,
    like: Record,
) -> Cell:
    found = {record.seed: score_of(record, facts.score) for record in records}
    scores = {seed: float(value) for seed, value in sorted(found.items()) if value is not None}
    failed = {r.seed: r.error or "no reason given" for r in records if r.status == "failed"}
    # A run that ended well but lacks the number that is compared is missing, not a zero.
    wanted = {*found, *(() if plan is None else plan.get(env, ()))}
    values = np.array(list(scores.values()), dtype=np.float64)
    estimate = stratified_bootstrap(values[:, None], mean) if len(values) else None
    published_name = facts.name_of(like.suite, like.agent, like.preset)
    reference = facts.reference(like.suite, published_name, env, records)
    return Cell(
        env=env,
        scores=scores,
        estimate=estimate,
        sd=float(values.std(ddof=1)) if len(values) > 1 else None,
        failed=failed,
        missing=tuple(sorted(wanted - set(scores) - set(failed))),
        planned=bool(records) or (like.source == OWN and (plan is None or env in plan)),
        reference=reference,
        steps=max((r.total_timesteps or 0 for r in records), default=0) or None,
        verdict=verdict(estimate, reference),
    )


def _statistics(cells: Sequence[Cell], target: float | None) -> dict[str, Estimate]:
    """Return the numbers over all environments that have scores; empty if none has."""
    matrix = score_matrix([cell for cell in cells if cell.n])
    if not matrix.size:
        return {}
    found = {name: stratified_bootstrap(matrix, f) for name, f in STATISTICS.items()}
    if target is not None:
        gap = stratified_bootstrap(matrix, lambda scores: optimality_gap(scores, target))
        found["optimality gap"] = gap
    return found


def _named(rows: Iterable[Row]) -> list[Row]:
    """Name the rows: the agent, its preset where it has several, a source that is not ours."""
    rows = sorted(rows, key=lambda row: (row.source != OWN, row.source, row.agent, row.preset))
    presets: dict[tuple[str, str], int] = {}
    for row in rows:
        presets[row.source, row.agent] = presets.get((row.source, row.agent), 0) + 1
    named = []
    for row in rows:
        name = row.agent
        if presets[row.source, row.agent] > 1:
            name += f" ({row.preset})"
        if row.source != OWN and row.source not in row.agent:
            name += f" [{row.source}]"
        named.append(replace(row, name=name))
    return named


def _notes(table: Table, planned: Sequence[Key] | None, has_scale: bool) -> list[str]:
    cells = [(row, cell) for row in table.rows for cell in row.cells]
    notes = []
    if not has_scale:
        notes.append(
            "No number over all environments: their returns have no common scale. "
            "Agents are in the order of their names."
        )
    if any(cell.n == 1 for _, cell in cells):
        notes.append("n=1: one run says nothing about the spread, so it has no interval.")
    for row in table.rows:
        if 0 < row.n_envs < len(table.envs) and row.statistics:
            of = len(table.envs)
            notes.append(f"{row.name}: numbers over {row.n_envs} of {of} environments only.")
    for row, cell in cells:
        notes += [
            f"{row.name}, {cell.env}, seed {seed} failed: {_short(error)}"
            for seed, error in sorted(cell.failed.items())
        ]
        if cell.missing:
            seeds = ", ".join(map(str, cell.missing))
            notes.append(f"{row.name}, {cell.env}: no score of seed {seeds} yet.")
    ran = {(row.agent, row.preset) for row in table.rows if row.source == OWN}
    absent = dict.fromkeys(key[2:4] for key in planned or () if key[2:4] not in ran)
    if absent:
        names = ", ".join(f"{agent} ({preset})" for agent, preset in absent)
        notes.append(f"In the suite, not run yet: {names}.")
    return notes


def _short(text: str, width: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
