"""Published numbers: ``benchmarks/reference/*.csv``, one row per number, each with its source.

Columns: ``paper, source, suite, agent, env, metric, value, low, high, sd, n, steps, note``.
``low`` and ``high`` are filled where the source prints a range, ``sd`` where it prints
``value ± sd``, ``n`` is the number of runs. Rows of one agent, environment and metric are in the
order of preference: what can be reproduced (reruns of released code) comes before what was printed
first.
"""

from __future__ import annotations

import csv
import functools
import io
import math
import re
from dataclasses import dataclass, fields, replace
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal, Protocol

from rlzoo.core.tasks.ids import procgen_task
from rlzoo.core.tasks.scores import ATARI, normalized_score
from rlzoo.errors import RefusedError
from rlzoo.report.benchmark_files import benchmark_root

Verdict = Literal["below", "inside", "above", "no reference"]

_TEXTS = ("paper", "source", "suite", "agent", "env", "metric", "note")
_OPTIONAL = ("low", "high", "sd")
_COUNTS = ("n", "steps")
_NEEDED = ("paper", "source", "suite", "agent", "env", "metric")

# A data set of a recipe (with or without a size) and the D4RL set that it stands for.
_DATASET = re.compile(r"rlzoo/(\w+)/([a-z]+(?:-[a-z]+)?)(?:-[1-9]\d*[km]?)?-v\d+")
_MUJOCO = re.compile(r"(\w+)-v[245]")


class Interval(Protocol):
    """What a verdict needs of an estimate; ``low`` and ``high`` are None without an interval."""

    @property
    def value(self) -> float:
        """The estimate itself."""

    @property
    def low(self) -> float | None:
        """Lower end of its interval."""

    @property
    def high(self) -> float | None:
        """Upper end of its interval."""


@dataclass(frozen=True)
class Reference:
    """One published number.

    Args:
        paper: Where it was published.
        source: Table, figure or log that it was read from.
        suite: Suite that it belongs to.
        agent: Name in the registry where the zoo has the agent.
        env: Environment or data set, as :func:`published` looks it up.
        metric: ``"return"``, ``"normalized"`` …
        value: The number.
        low: Lower end of the range that the source prints.
        high: Upper end of it; one end alone is a half-open range.
        sd: Standard deviation that the source prints.
        n: Number of runs.
        steps: Steps of the training.
        note: What the reader must know.
    """

    paper: str
    source: str
    suite: str
    agent: str
    env: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    sd: float | None = None
    n: int | None = None
    steps: int | None = None
    note: str = ""

    @property
    def interval(self) -> tuple[float, float]:
        """The published interval: the range, or one standard deviation, or the number alone."""
        if self.low is not None or self.high is not None:
            return (
                -math.inf if self.low is None else self.low,
                math.inf if self.high is None else self.high,
            )
        spread = self.sd or 0.0
        return self.value - spread, self.value + spread


def reference_files() -> list[str]:
    """Return the names of the files of published numbers, without ``.csv``, sorted."""
    return [file.name.removesuffix(".csv") for file in _files()]


def load_reference(suite: str) -> list[Reference]:
    """Return the published numbers of a suite, in the order of the files.

    Args:
        suite: Name of a suite, or of one file without ``.csv``; unknown ones have no numbers.

    Raises:
        RefusedError: With ``file:line``, if a file is damaged.
    """
    return [
        entry
        for stem, entries in _all_references().items()
        for entry in entries
        if suite in (stem, entry.suite)
    ]


def read_reference_file(path: Path | Traversable, name: str | None = None) -> list[Reference]:
    """Read and check one file.

    Args:
        path: The file.
        name: How messages call it; by default its path.

    Raises:
        RefusedError: With ``file:line``, for missing columns, text that is no number, a row
            without a source, or a range that does not hold its value.
    """
    name = name or str(path)
    columns = [f.name for f in fields(Reference)]
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
        if reader.fieldnames != columns:
            raise RefusedError(f"{name}:1: wrong columns.", f"Expected: {','.join(columns)}.")
        return [_reference(row, f"{name}:{reader.line_num}") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RefusedError(f"{name}: cannot be read ({error}).") from error


def published_names(metric: str) -> tuple[str, ...]:
    """Return the names under which a metric of ours was published.

    ``reached`` is the coverage of a task with places to cover, and success at any step of others
    (:func:`rlzoo.runs.splits.metrics_of`).
    """
    return ("coverage", "success_any") if metric == "reached" else (metric,)


def published(
    suite: str,
    agent: str,
    env: str,
    metric: str,
    dataset: str | None = None,
    steps: int | None = None,
) -> Reference | None:
    """Return the published number to stand beside a result, or None.

    Args:
        suite: Name of the suite.
        agent: Name of the agent.
        env: Environment id; ``ALE/Alien-v5`` finds ``Alien``.
        metric: Name of the metric; ``reached`` is coverage or success at any step.
        dataset: Data set of the run: ``rlzoo/hopper/random-v0`` finds ``hopper-random-v0``. None
            stands for the medium one.
        steps: Length of the training: among several lengths the nearest one (in ratio) is taken.
            None takes the preferred row.
    """
    names = published_names(metric)
    entries = [e for e in load_reference(suite) if e.agent == agent and e.metric in names]
    for name in _names(suite, env, dataset):
        found = [e for e in entries if e.env == name]
        if found:
            return min(found, key=lambda e: _distance(e.steps, steps))  # the first of equals
    return None


def verdict(estimate: Interval | None, reference: Reference | None) -> Verdict:
    """Say where a result lies: below, inside or above the published interval.

    ``"below"`` and ``"above"`` need the whole interval of the result beyond the published one; a
    result without an interval counts with its value alone. Without a reference or a finite result
    there is nothing to compare: ``"no reference"``.
    """
    if reference is None or estimate is None or not math.isfinite(estimate.value):
        return "no reference"
    low = estimate.value if estimate.low is None else estimate.low
    high = estimate.value if estimate.high is None else estimate.high
    published_low, published_high = reference.interval
    if high < published_low:
        return "below"
    return "above" if low > published_high else "inside"


def on_scale(reference: Reference, env: str) -> Reference | None:
    """Return a published return as a normalised score, None for an environment without a scale.

    Args:
        reference: Undiscounted returns.
        env: Environment id.
    """
    zero, one = normalized_score(env, 0.0), normalized_score(env, 1.0)
    if zero is None or one is None:
        return None

    def scaled(value: float | None) -> float | None:
        return None if value is None else normalized_score(env, value)

    return replace(
        reference,
        metric="normalized",
        value=scaled(reference.value) or 0.0,
        low=scaled(reference.low),
        high=scaled(reference.high),
        sd=None if reference.sd is None else reference.sd * (one - zero),
        note="; ".join(filter(None, (reference.note, "computed from the return"))),
    )


def _names(suite: str, env: str, dataset: str | None) -> list[str]:
    """Return the names under which an environment may stand in the files, the most exact first."""
    names = [env]
    if task := procgen_task(env):
        names.append(task)
    if suite == "mujoco" and (known := _MUJOCO.fullmatch(env)):
        recipe = _DATASET.fullmatch(dataset or "")
        if dataset is None or recipe:
            names.append(f"{known[1].lower()}-{recipe[2] if recipe else 'medium'}-v0")
        names.append(known[1])
    if suite == "atari" and (game := ATARI.task(env)):
        names.append(game)
    return names


def _distance(published_steps: int | None, steps: int | None) -> float:
    if steps is None:
        return 0.0
    return abs(math.log(published_steps / steps)) if published_steps else math.inf


def _files() -> list[Traversable]:
    root = benchmark_root()
    if root is None:
        return []
    files = (file for file in (root / "reference").iterdir() if file.name.endswith(".csv"))
    return sorted(files, key=lambda file: file.name)


@functools.cache
def _all_references() -> dict[str, list[Reference]]:
    """Read every file once: they do not change while a program runs."""
    return {
        file.name.removesuffix(".csv"): read_reference_file(
            file, f"benchmarks/reference/{file.name}"
        )
        for file in _files()
    }


def _reference(row: dict[str, str], where: str) -> Reference:
    if None in row or None in row.values():
        raise RefusedError(f"{where}: the row has not as many fields as the header.")
    for column in _NEEDED:
        if not row[column].strip():
            raise RefusedError(f"{where}: {column} is empty.")
    texts = {column: row[column] for column in _TEXTS}
    numbers = {c: _number(row[c], c, where) if row[c] else None for c in _OPTIONAL}
    counts = {c: _whole(row[c], c, where) if row[c] else None for c in _COUNTS}
    entry = Reference(
        value=_number(row["value"], "value", where), **texts, **numbers, **counts  # type: ignore[arg-type]
    )  # fmt: skip
    low, high = entry.interval
    if not low <= entry.value <= high:
        raise RefusedError(f"{where}: the value {entry.value} is not in [{low}, {high}].")
    return entry


def _number(text: str, column: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RefusedError(f"{where}: {column}={text!r} is not a number.")
    return number


def _whole(text: str, column: str, where: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise RefusedError(f"{where}: {column}={text!r} is not a positive whole number.")
    return int(text)
