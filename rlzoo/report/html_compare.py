"""The page of several runs: one row per run, means over seeds, what differs in their settings."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlzoo.core.tasks.scores import score_digits
from rlzoo.report.html_parts import Html, details, figure, join, notes, section, table, tag
from rlzoo.report.html_run import status_of
from rlzoo.report.run_files import RunFiles, finite
from rlzoo.report.svg import chart, mean_lines
from rlzoo.report.tables import number, plus_minus

_MAX_SETTINGS = 20
_KIND = ("agent", "env", "preset", "seed")


def body(folder: Path, runs: Sequence[RunFiles], problems: Sequence[str]) -> tuple[str, list[Html]]:
    """Return the title and the sections of the page of a folder of runs."""
    count = f"{len(runs):,} run{'s' if len(runs) != 1 else ''}"
    title = f"{count} in {folder.name or folder}"
    names = {id(run): run.path.relative_to(folder).as_posix() for run in runs}
    damaged = [f"{names[id(run)]}: {problem}" for run in runs for problem in run.problems]
    groups = _grouped(runs, names)
    return title, [
        tag("h1", title),
        notes([*problems, *damaged]),
        section("Agents", _groups(groups)),
        section("Curves", *_curves(groups)),
        section("Runs", _runs(runs, names)),
        section("Settings that differ", _differences(runs, names)),
        section("Provenance", _provenance(runs)),
    ]


def _grouped(
    runs: Sequence[RunFiles], names: Mapping[int, str]
) -> dict[str, dict[str, list[RunFiles]]]:
    """Return environment -> kind -> runs; only runs of the same settings are of one kind."""
    found: dict[tuple[str, str], dict[tuple[Any, ...], list[RunFiles]]] = {}
    for run in runs:
        key = (str(run.fact("env")), f"{run.fact('agent')}, {run.fact('preset')}")
        settings = tuple((s.section, s.name, s.value) for s in run.settings)
        found.setdefault(key, {}).setdefault(settings, []).append(run)
    groups: dict[str, dict[str, list[RunFiles]]] = {}
    for (env, kind), variants in sorted(found.items()):
        for ours in variants.values():
            name = kind if len(variants) == 1 else f"{kind} ({names[id(ours[0])]})"
            groups.setdefault(env, {})[name] = ours
    return groups


def _groups(groups: Mapping[str, Mapping[str, Sequence[RunFiles]]]) -> Html:
    columns = (
        "env",
        "agent, preset (first run)",
        "final return",
        "normalised",
        "n",
        "not finished",
    )
    rows = []
    for env, kinds in sorted(groups.items()):
        for kind, runs in sorted(kinds.items()):
            done = [run.numbers("final") for run in runs if run.is_final]
            returns = _known([found.get("return_mean") for found in done])
            scores = _known([found.get("normalized") for found in done])
            rows.append(
                (env, kind, _mean_sd(returns), _mean_sd(scores, score_digits(env)),
                 str(len(returns)),
                 number(len(runs) - len(done) or None, 0))
            )  # fmt: skip
    text = (
        "Mean of the last policies over runs of the same settings, with the sample standard "
        "deviation if n > 1."
    )
    return join([tag("p", text, "soft"), table(columns, rows, right=columns[2:])])


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean_sd(values: Sequence[float], digits: int = 1) -> str:
    if not values:
        return number(None)
    sd = statistics.stdev(values) if len(values) > 1 else None
    return plus_minus(statistics.fmean(values), sd, digits)


def _curves(groups: Mapping[str, Mapping[str, Sequence[RunFiles]]]) -> list[Html]:
    figures = []
    for index, (env, kinds) in enumerate(sorted(groups.items())):
        lines = []
        for group, (kind, runs) in enumerate(sorted(kinds.items())):
            curves = [[(step, mean) for step, mean, _ in run.curve] for run in runs if run.curve]
            if curves:
                lines += mean_lines(kind, curves, group)
        if lines:
            svg = chart(lines, env, "steps", "undiscounted return", f"env{index}")
            figures.append(figure(svg))
    return figures


def _runs(runs: Sequence[RunFiles], names: Mapping[int, str]) -> Html:
    columns = ("run", "agent", "env", "preset", "seed", "status", "final return", "best",
               "normalised", "steps", "steps/s")  # fmt: skip
    rows = []
    for run in runs:
        final, best, result = run.numbers("final"), run.numbers("best"), run.result or {}
        status = status_of(run)
        if run.status == "failed":
            status = join([status, tag("span", run.manifest.get("error"), "soft")])
        rows.append(
            (tag("code", names[id(run)]), *(run.fact(name) for name in _KIND),
             status, plus_minus(final.get("return_mean"), final.get("return_std")),
             number(best.get("return_mean")),
             number(final.get("normalized"), score_digits(str(run.fact("env")))),
             number(finite(result.get("total_timesteps")), 0),
             number(finite(result.get("steps_per_second"))))
        )  # fmt: skip
    return table(columns, rows, right=("seed", *columns[6:]))


def _differences(runs: Sequence[RunFiles], names: Mapping[int, str]) -> Html:
    """Return the settings that are not the same in all runs of an agent and environment."""
    by_kind: dict[tuple[str, str], list[RunFiles]] = {}
    for run in runs:
        by_kind.setdefault((str(run.fact("agent")), str(run.fact("env"))), []).append(run)
    parts = []
    for (agent, env), ours in sorted(by_kind.items()):
        values = {
            id(run): {f"{s.section}.{s.name}": s.value for s in run.settings}
            for run in ours
            if run.settings
        }
        known = dict.fromkeys(name for found in values.values() for name in found)
        differing = [
            name for name in known if len({found.get(name) for found in values.values()}) > 1
        ][:_MAX_SETTINGS]
        if differing:
            rows = [
                [tag("code", names[id(run)]), number(run.numbers("final").get("return_mean")),
                 *(values[id(run)].get(name) for name in differing)]
                for run in ours if id(run) in values
            ]  # fmt: skip
            columns = ["run", "final return", *(n.removeprefix("agent.") for n in differing)]
            parts += [tag("p", f"{agent} on {env}"), table(columns, rows, right=columns[1:])]
    return join(parts)


def _provenance(runs: Sequence[RunFiles]) -> Html:
    counts: dict[tuple[str, str], int] = {}
    for run in runs:
        found: dict[str, Any] = {n: run.fact(n) for n in ("commit", "device", "dataset",
                                                         "dataset_fingerprint")}  # fmt: skip
        for name in ("machine", "versions"):
            inner = run.fact(name)
            if isinstance(inner, dict):
                found |= {f"{name}: {key}": value for key, value in inner.items()}
        for name, value in found.items():
            if value is not None:
                counts[name, str(value)] = counts.get((name, str(value)), 0) + 1
    rows = [(name, tag("code", value), str(n)) for (name, value), n in sorted(counts.items())]
    commands = [tag("pre", run.fact("command")) for run in runs if run.fact("command")]
    more = details(f"{len(commands):,} commands", *commands) if commands else ""
    return join([table(("what", "value", "runs"), rows, right=("runs",)) if rows else "", more])
