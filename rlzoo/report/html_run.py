"""The page of one run: result, curves, settings with their sources, where it comes from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rlzoo.core.tasks.scores import score_digits
from rlzoo.report.html_parts import Html, details, facts, figure, notes, section, table, tag
from rlzoo.report.run_files import RunFiles, finite
from rlzoo.report.svg import Line, chart, grid
from rlzoo.report.tables import number, plus_minus

_CSS_OF = {"finished": "good", "running": "", "failed": "bad"}
_MAX_METRICS = 18
_MAX_POINTS = 500


def body(run: RunFiles) -> tuple[str, list[Html]]:
    """Return the title and the sections of the page of a run."""
    title = title_of(run)
    return title, [
        tag("h1", title),
        _summary(run),
        notes(notes_of(run)),
        section("Result", _result(run)),
        section("Evaluations", *_curve(run, title)),
        section("Training", _metrics(run)),
        section("Settings", _settings(run)),
        section("Provenance", facts(_provenance(run))),
        section("Continued", _resumes(run)),
    ]


def title_of(run: RunFiles) -> str:
    """Return ``agent on env, seed n``, or the folder's name."""
    if run.fact("agent") is None:
        return run.path.name or str(run.path)
    return f"{run.fact('agent')} on {run.fact('env')}, seed {run.fact('seed')}"


def status_of(run: RunFiles) -> Html:
    """Return the status in its colour."""
    return tag("span", run.status, _CSS_OF.get(run.status, "warn"))


def notes_of(run: RunFiles) -> list[str]:
    """Return what a reader must know before the numbers."""
    lines = {
        "running": "This run has not ended; the numbers are those of now.",
        "interrupted": "This run was interrupted; it can be continued with rlzoo resume.",
        "stopped": "This run was stopped; it can be continued with rlzoo resume.",
        "failed": f"This run failed: {run.manifest.get('error', 'it does not say why')}",
        "unknown": "It is not known how this run ended.",
    }
    found = [lines[run.status]] if run.status in lines else []
    if run.result is not None and not run.is_final:
        found.append("The result below is that of an earlier, shorter training.")
    return [*found, *run.problems]


def unit_of(run: RunFiles) -> str:
    """Return what the steps of a run count."""
    return "environment steps" if run.fact("dataset_fingerprint") is None else "updates"


def _summary(run: RunFiles) -> Html:
    result = run.result or {}
    parts = [Html(f"Status: {status_of(run)}"), f"preset {run.fact('preset')}"]
    steps = finite(result.get("total_timesteps"))
    if steps is not None:
        parts.append(f"{steps:,.0f} {unit_of(run)}")
    elif run.curve:
        parts.append(f"evaluated up to step {run.curve[-1][0]:,.0f}")
    seconds, rate = finite(result.get("wall_seconds")), finite(result.get("steps_per_second"))
    if seconds is not None:
        parts.append(f"{number(seconds, 0)} s")
    if rate is not None:
        parts.append(f"{number(rate)} steps per second without evaluations")
    return tag("p", Html(", ".join(tag("span", part) for part in parts)))


def _result(run: RunFiles) -> Html:
    columns = ("", "return", "episodes", "normalised")
    rows = []
    for which, name in (("final", "final policy"), ("best", "best evaluation")):
        found = run.numbers(which)
        if not found:
            continue
        step = found.get("step")
        label = name if step is None else f"{name}, step {step:,.0f}"
        returns = plus_minus(found.get("return_mean"), found.get("return_std"))
        score = number(found.get("normalized"), score_digits(str(run.fact("env"))))
        rows.append((label, returns, number(found.get("episodes"), 0), score))
    if not rows:
        return tag("p", "There is no result yet.", "soft")
    return table(columns, rows, right=columns[1:])


def _curve(run: RunFiles, title: str) -> list[Html]:
    if not run.curve:
        return [tag("p", "No evaluation was recorded.", "soft")]
    steps, means, stds = (list(column) for column in zip(*run.curve, strict=True))
    low = [mean - std for mean, std in zip(means, stds, strict=True)]
    high = [mean + std for mean, std in zip(means, stds, strict=True)]
    line = Line("mean +- sd over episodes", steps, means, low, high)
    svg = chart([line], title, unit_of(run), "undiscounted return", "curve")
    every = math.ceil(len(run.curve) / _MAX_POINTS)
    rows = [(number(s, 0), number(m), number(d)) for s, m, d in run.curve[::every]]
    columns = ("step", "mean return", "sd")
    shown = "" if every == 1 else f", every {every}th shown"
    numbers = table(columns, rows, right=columns)
    return [figure(svg), details(f"{len(run.curve):,} evaluations{shown}", numbers)]


def _metrics(run: RunFiles) -> Html:
    def changes(points: list[tuple[float, float]]) -> bool:
        return len({value for _, value in points}) > 1

    shown = {name: run.metrics[name] for name in sorted(run.metrics) if changes(run.metrics[name])}
    chosen = dict(list(shown.items())[:_MAX_METRICS])
    return figure(grid(chosen, "Training metrics", "metrics")) if chosen else Html("")


def _settings(run: RunFiles) -> Html:
    if not run.settings:
        return tag("pre", run.config) if run.config else tag("p", "config.yaml is missing.", "soft")
    rows = [
        (s.section, tag("code", s.name), tag("code", s.value), s.source or None)
        for s in run.settings
    ]
    return table(("section", "name", "value", "from"), rows)


def _provenance(run: RunFiles) -> Iterator[tuple[str, Any]]:
    for name in ("agent", "env", "preset", "seed"):
        yield name, run.fact(name)
    yield "folder", tag("code", str(run.path))
    if run.fact("dataset") is not None:
        yield "data set", run.fact("dataset")
        yield "data fingerprint", tag("code", run.fact("dataset_fingerprint"))
    yield "command", tag("code", run.fact("command"))
    yield "commit", tag("code", run.fact("commit"))
    yield "device", run.fact("device")
    for name in ("machine", "versions"):
        found = run.fact(name)
        if isinstance(found, dict):
            yield name, ", ".join(f"{key} {value}" for key, value in sorted(found.items()))


def _resumes(run: RunFiles) -> Html:
    entries = run.fact("resumed")
    rows = [
        (number(finite(e.get("step")), 0), e.get("device"), tag("code", e.get("commit")),
         "; ".join(map(str, e.get("forced") or [])) or "nothing", tag("code", e.get("command")))
        for e in (entries if isinstance(entries, list) else [])
        if isinstance(e, dict) and isinstance(e.get("forced", []), list)
    ]  # fmt: skip
    columns = ("from step", "device", "commit", "changed by force", "command")
    return table(columns, rows, right=("from step",)) if rows else Html("")
