"""The page of a benchmark: leaderboard, statistics, papers, one figure per environment, runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from rlzoo.core.tasks.scores import score_digits
from rlzoo.report.html_parts import Html, details, figure, join, notes, section, table, tag
from rlzoo.report.leaderboard_table import SuiteFacts, Table, tabulate
from rlzoo.report.leaderboard_text import heading_of, legend, numeric, sections
from rlzoo.report.records import Record, read
from rlzoo.report.svg import chart, mean_lines
from rlzoo.report.tables import number, plus_minus

FactsOf = Callable[[Iterable[Record]], Mapping[str, SuiteFacts]]

_MAX_RUNS = 5_000


def body(path: Path, facts_of: FactsOf | None = None) -> tuple[str, list[Html]]:
    """Return the title and the sections of the page of a file of records."""
    found = read(path)
    tables = tabulate(found.records, facts_of(found.records) if facts_of else None)
    title = ", ".join(heading_of(one) for one in tables) or "Benchmark"
    parts = [tag("h1", title), notes(found.problems)]
    if not tables:
        parts.append(tag("p", "There are no records yet.", "soft"))
    for index, one in enumerate(tables):
        parts += _suite(one, index)
    return title, parts


def _suite(one: Table, index: int) -> list[Html]:
    parts = [
        section(
            heading or heading_of(one),
            "" if heading else tag("p", legend(one), "soft"),
            table(columns, rows, right=[c for c in columns if c in numeric(columns)]),
            "" if heading else notes(one.notes),
        )
        for heading, (columns, rows) in sections(one)
    ]
    curves = [_curves(one, env, f"s{index}e{n}") for n, env in enumerate(one.envs)]
    runs = [record for row in one.rows for record in row.records]
    return [*parts, section("Curves", *curves), section("Runs", _runs(runs), _provenance(runs))]


def _curves(one: Table, env: str, prefix: str) -> Html:
    """Return one figure: every run thin, and the mean of the runs of an agent."""
    lines = []
    for group, row in enumerate(one.rows):
        runs = [r.curve for r in row.records if r.env == env and r.status == "ok" and r.curve]
        lines += mean_lines(row.name, runs, group)
    if not lines:
        return Html("")
    return figure(chart(lines, env, "steps", "undiscounted return", prefix))


def _runs(records: Sequence[Record]) -> Html:
    columns = ("agent", "preset", "env", "seed", "status", "return", "normalised", "steps", "s",
               "steps/s", "folder")  # fmt: skip
    rows = []
    for record in sorted(records, key=lambda r: (r.env, r.agent, r.preset, r.seed))[:_MAX_RUNS]:
        final = record.final or {}
        failed = record.status == "failed"
        status = tag("span", f"failed: {record.error}" if failed else "ok", "bad" if failed else "")
        rows.append(
            (record.agent, record.preset, record.env, record.seed, status,
             plus_minus(final.get("return_mean"), final.get("return_std")),
             number(final.get("normalized"), score_digits(record.env)),
             number(record.total_timesteps, 0),
             number(record.wall_seconds, 0), number(record.steps_per_second), record.run_dir)
        )  # fmt: skip
    right = ("seed", "return", "normalised", "steps", "s", "steps/s")
    return details(f"{len(records):,} runs", table(columns, rows, right=right))


def _provenance(records: Sequence[Record]) -> Html:
    """Return what the runs have in common, and where they differ: how many have what."""
    counts: dict[tuple[str, str], int] = {}
    for record in records:
        facts = {"commit": record.commit, "device": record.device, "data": record.dataset,
                 "data fingerprint": record.dataset_fingerprint, "from": record.source}  # fmt: skip
        facts |= {f"machine: {k}": v for k, v in (record.machine or {}).items()}
        facts |= {f"version: {k}": v for k, v in (record.versions or {}).items()}
        for name, value in facts.items():
            if value is not None:
                key = (name, str(value))
                counts[key] = counts.get(key, 0) + 1
    rows = [(name, tag("code", value), n) for (name, value), n in sorted(counts.items())]
    commands = sorted({r.command for r in records if r.command})
    shown = join(tag("pre", command) for command in commands[:_MAX_RUNS])
    more = details(f"{len(commands):,} commands", shown) if commands else ""
    return join([table(("what", "value", "runs"), rows, right=("runs",)), more])
