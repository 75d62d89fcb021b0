"""What a run left in its folder, read with distrust: what is missing or damaged becomes a note."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlzoo.core.safe_files import is_alive

Point = tuple[float, float, float]

_MAX_BYTES = 64 << 20
_MAX_RUNS = 2_000
_STEP = "time/total_timesteps"
_SETTING = re.compile(r"    (?:# )?(?P<name>\w+): (?P<rest>.+)")


@dataclass(frozen=True)
class Setting:
    """One line of a run's ``config.yaml``.

    Args:
        section: ``run`` or ``agent``.
        name: Name of the setting.
        value: Its value as text.
        source: Where the value comes from.
    """

    section: str
    name: str
    value: str
    source: str


@dataclass
class RunFiles:
    """What a run folder holds.

    Args:
        path: The folder.
        manifest: Contents of ``manifest.json``, empty if there is none that can be read.
        result: Contents of ``result.json``; None if the run has no result.
        settings: The settings; empty if ``config.yaml`` has another form.
        config: Text of ``config.yaml``.
        curve: Step, mean and standard deviation of every evaluation, NaN where unknown.
        metrics: Name -> steps and values of everything else that was logged.
        problems: One line for everything that could not be read.
    """

    path: Path
    manifest: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] | None = None
    settings: list[Setting] = field(default_factory=list)
    config: str = ""
    curve: list[Point] = field(default_factory=list)
    metrics: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def fact(self, name: str) -> Any:
        """Return what the manifest, or else the result, says."""
        return self.manifest.get(name, (self.result or {}).get(name))

    @property
    def status(self) -> str:
        """``finished``, ``running``, ``interrupted``, ``stopped``, ``failed`` or ``unknown``."""
        said = self.manifest.get("status")
        if said == "running":
            return _liveness(self.path / "run.lock")
        if said in ("finished", "stopped", "failed"):
            return str(said)
        return "finished" if self.result is not None and not self.manifest else "unknown"

    @property
    def is_final(self) -> bool:
        """Whether the result is that of the whole run; a run made longer has an older one."""
        return self.result is not None and self.status in ("finished", "unknown")

    def numbers(self, which: str) -> dict[str, float | None]:
        """Return the numbers of ``final`` or ``best`` of the result."""
        found = (self.result or {}).get(which)
        return {name: finite(v) for name, v in found.items()} if isinstance(found, dict) else {}


def finite(value: Any) -> float | None:
    """Return a finite number as float, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return (path / "manifest.json").is_file() or (path / "result.json").is_file()


def find_runs(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the run folders below a folder, sorted, and what was left out. Links are not followed.

    A folder inside of a run is not looked at.
    """
    found: list[Path] = []
    problems: list[str] = []

    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: {error.strerror or error}")

    for place, folders, _ in os.walk(folder, onerror=unreadable):
        folders.sort()
        if is_run(Path(place)):
            folders.clear()
            found.append(Path(place))
            if len(found) == _MAX_RUNS:
                problems.append(f"Only the first {_MAX_RUNS:,} runs are shown.")
                break
    return found, problems


def read_run(path: Path) -> RunFiles:
    """Read a run folder; never raises for what is in it."""
    run = RunFiles(path)
    run.manifest = _read_object(run, "manifest.json") or {}
    run.result = _read_object(run, "result.json")
    run.config = _read_text(run, "config.yaml") or ""
    run.settings = list(_settings(run.config))
    _read_progress(run)
    if run.result is not None:
        run.curve = _merge(run.curve, run.result.get("curve"))
    return run


def _liveness(lock: Path) -> str:
    try:
        owner = json.loads(lock.read_text(encoding="utf-8"))
        pid, host = int(owner["pid"]), str(owner["host"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "interrupted"
    return "running" if host != socket.gethostname() or is_alive(pid) else "interrupted"


def _read_text(run: RunFiles, name: str) -> str | None:
    path = run.path / name
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > _MAX_BYTES:
            run.problems.append(f"{name} is larger than {_MAX_BYTES >> 20} MiB and was not read.")
            return None
        return path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        run.problems.append(f"{name} cannot be read: {error.strerror or error}.")
        return None


def _read_object(run: RunFiles, name: str) -> dict[str, Any] | None:
    text = _read_text(run, name)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        run.problems.append(f"{name} is damaged: it is not JSON.")
        return None
    if not isinstance(value, dict):
        run.problems.append(f"{name} is damaged: it holds no names and values.")
        return None
    return value


def _settings(text: str) -> Iterator[Setting]:
    """Yield the lines of a configuration that rlzoo wrote, ``name: JSON  # source``."""
    section = ""
    for line in text.splitlines():
        if line in ("  run:", "  agent:"):
            section = line.strip(" :")
            continue
        match = _SETTING.fullmatch(line)
        if not section or match is None:
            continue
        rest = match["rest"]
        try:
            _, end = json.JSONDecoder().raw_decode(rest)
        except (ValueError, RecursionError):  # a default that only Python can write down
            end = rest.rfind("  # ") if "  # " in rest else len(rest)
        yield Setting(section, match["name"], rest[:end].strip(), rest[end:].strip().lstrip("# "))


def _read_progress(run: RunFiles) -> None:
    text = _read_text(run, "progress.csv")
    if text is None:
        return
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        run.problems.append("progress.csv ends in the middle of a row, which is left out.")
    step, bad = 0.0, 0
    try:
        for row in csv.DictReader(text.replace("\0", "").splitlines()):
            values = {name: _parsed(cell) for name, cell in row.items() if name}
            bad += None in row or any(value is None for value in values.values())
            step = _known(values.get(_STEP)) or step
            _take_row(run, step, values)
    except csv.Error as error:
        run.problems.append(f"progress.csv is damaged: {error}.")
    if bad:
        run.problems.append(f"progress.csv has {bad:,} damaged rows.")


def _parsed(cell: str | None) -> float | None:
    """Return the number in a cell, NaN for an empty one, None for anything else."""
    if cell is None:
        return None
    if cell in ("", "True", "False"):
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return None


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _take_row(run: RunFiles, step: float, values: dict[str, float | None]) -> None:
    mean = _known(values.get("eval/mean_reward"))
    if mean is not None:
        std = _known(values.get("eval/std_reward"))
        run.curve.append((step, mean, math.nan if std is None else std))
    for name, value in values.items():
        number = _known(value)
        if number is not None and not name.startswith(("eval/", "time/")):
            points = run.metrics.setdefault(name, [])
            if points and points[-1][0] == step:  # an evaluation has a row of its own
                points.pop()
            points.append((step, number))


def _merge(logged: list[Point], recorded: Any) -> list[Point]:
    """Return the curve of the result, with the deviations of the log where the steps agree."""
    points = []
    deviations = {step: std for step, _, std in logged}
    for entry in recorded if isinstance(recorded, list) else ():
        if isinstance(entry, list) and len(entry) >= 2:
            step, mean = finite(entry[0]), finite(entry[1])
            if step is not None:
                std = deviations.get(step, math.nan)
                points.append((step, math.nan if mean is None else mean, std))
    return sorted(points) or logged
