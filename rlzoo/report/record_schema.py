"""What a record of a run holds, and the check of every field of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal

from rlzoo.core.tasks.ids import canonical

FORMAT, VERSION = "rlzoo-record", 1

Key = tuple[str, str, str, str, str, int]


@dataclass(frozen=True)
class Record:
    """What is known about one run of a benchmark.

    Attributes:
        suite: Name of the suite.
        size: Size of the suite: smoke, small, paper.
        agent: Name of the agent.
        preset: Name of its configuration.
        env: Id of the environment; of one that has several ids, the one of
            :func:`rlzoo.core.tasks.ids.canonical`, so that its runs are compared.
        seed: Seed of the run.
        status: ``failed`` if there is no result; ``error`` says why.
        error: What went wrong.
        dataset: Id of the data set that was learned from.
        dataset_fingerprint: Hash of its contents.
        total_timesteps: Steps (or gradient steps of an offline agent) that were made.
        final: ``return_mean``, ``return_std``, ``episodes``, ``normalized`` of the last policy.
        best: The same of the best evaluation, and its ``step``.
        curve: Step and mean return of every evaluation; NaN where a return was not finite.
        evaluation: How the policies were evaluated: episodes, share of random actions, scale.
        metrics: What only this suite measures, such as ``gap`` or ``success_rate``.
        metric_curves: Step and value of every evaluation, by metric.
        wall_seconds: Seconds of the whole run.
        steps_per_second: Speed of learning, without evaluations.
        device: Device of the networks.
        machine: Processor, cores, system.
        versions: Versions of the libraries.
        commit: Commit of the code.
        command: Command line that repeats the run.
        run_dir: Folder of the run.
        source: Who made the record: ``rlzoo``, or the name of another library.
        date: When the record was made, ISO 8601 in UTC.
    """

    suite: str
    size: str
    agent: str
    preset: str
    env: str
    seed: int
    status: Literal["ok", "failed"]
    error: str | None = None
    dataset: str | None = None
    dataset_fingerprint: str | None = None
    total_timesteps: int | None = None
    final: dict[str, float | int | None] | None = None
    best: dict[str, float | int | None] | None = None
    curve: tuple[tuple[int, float], ...] = ()
    evaluation: dict[str, Any] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    metric_curves: dict[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    wall_seconds: float | None = None
    steps_per_second: float | None = None
    device: str | None = None
    machine: dict[str, Any] | None = None
    versions: dict[str, Any] | None = None
    commit: str | None = None
    command: str | None = None
    run_dir: str | None = None
    source: str = "rlzoo"
    date: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "env", canonical(self.env))  # it is frozen

    @property
    def key(self) -> Key:
        """What names the cell: suite, size, agent, preset, environment, seed."""
        return self.suite, self.size, self.agent, self.preset, self.env, self.seed


def parse(content: Mapping[str, Any]) -> Record:
    """Make a record of plain values, each of which is checked; unknown names are ignored.

    Raises:
        ValueError: With one line that names the first field that is missing or wrong.
    """
    values = {}
    for name, check in CHECKS.items():
        value = content.get(name)
        if value is None:
            if name in _REQUIRED:
                raise ValueError(f"{name} is missing")
            continue
        try:
            values[name] = check(value)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{name} {error}") from None
    return Record(**values)


def parse_line(content: Any) -> Record:
    """Make a record of the contents of a line, which say what they are.

    Raises:
        ValueError: With one line that says why it is no record.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f'not a record: it has no "format": "{FORMAT}"')
    version = content.get("version")
    if type(version) is not int or version < 1:
        raise ValueError("version must be a whole number from 1")
    if version > VERSION:
        raise ValueError(f"version {version} is newer than this rlzoo knows ({VERSION})")
    return parse(content)


def _name(value: Any) -> str:
    # Names become folders, columns and headings.
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError("must be a text of printable characters")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text")
    return value.encode("utf-8", "replace").decode()  # paths may hold what no file can


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError("must be a number")
    return float(value)


def _finite(value: Any) -> float | None:
    return number if math.isfinite(number := _number(value)) else None


def whole_number(value: Any) -> int:
    """Return an integer, also of a float such as ``2.0``.

    Raises:
        ValueError: If it is none, or does not fit into 63 bits.
    """
    if not _number(value).is_integer() or abs(value) >= 1 << 63:
        raise ValueError("must be a whole number of at most 63 bits")
    return int(value)


def _status(value: Any) -> str:
    if value not in ("ok", "failed"):
        raise ValueError('must be "ok" or "failed"')
    return str(value)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError("must be a mapping of names")
    return dict(value)


def _numbers(value: Any) -> dict[str, float | int | None]:
    numbers: dict[str, float | int | None] = {}
    for name, number in _mapping(value).items():
        finite = None if number is None else _finite(number)
        numbers[name] = int(number) if isinstance(number, Integral) else finite
    return numbers


def _metrics(value: Any) -> dict[str, float]:
    numbers = _numbers(value).items()
    return {_name(name): float(number) for name, number in numbers if number is not None}


def _curves(value: Any) -> dict[str, tuple[tuple[int, float], ...]]:
    return {_name(name): _curve(points) for name, points in _mapping(value).items()}


def _curve(value: Any) -> tuple[tuple[int, float], ...]:
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list")
    points = []
    for point in value:
        if not isinstance(point, list | tuple) or len(point) != 2:
            raise ValueError("must be a list of pairs of step and return")
        step, number = point
        points.append((whole_number(step), math.nan if number is None else _number(number)))
    return tuple(points)


CHECKS: dict[str, Callable[[Any], Any]] = {
    **{name: _name for name in ("suite", "size", "agent", "preset", "env", "source")},
    **{name: _text for name in ("error", "dataset", "dataset_fingerprint", "device", "commit")},
    **{name: _text for name in ("command", "run_dir", "date")},
    **{name: whole_number for name in ("seed", "total_timesteps")},
    **{name: _finite for name in ("wall_seconds", "steps_per_second")},
    **{name: _numbers for name in ("final", "best")},
    **{name: _mapping for name in ("machine", "versions", "evaluation")},
    "status": _status,
    "curve": _curve,
    "metrics": _metrics,
    "metric_curves": _curves,
}
_REQUIRED = frozenset(item.name for item in fields(Record)[:7])
