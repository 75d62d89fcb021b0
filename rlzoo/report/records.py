"""Records of runs: one JSON line per run in a file that only grows, and survives a kill.

A line is added by one write, under a lock, and flushed to the disk. A process that is killed in the
middle leaves half a line at most; the next one that adds a line ends it first, and readers skip and
report it. Which line counts is decided by :func:`latest`, so a cell may be recorded twice.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlzoo.core.safe_files import fsync_folder, to_json
from rlzoo.errors import RefusedError
from rlzoo.report.record_schema import (
    CHECKS,
    FORMAT,
    VERSION,
    Key,
    Record,
    parse,
    parse_line,
    whole_number,
)

__all__ = [
    "Found",
    "Key",
    "Record",
    "append",
    "from_result",
    "import_records",
    "latest",
    "read",
    "to_line",
]

try:
    import fcntl
except ImportError:  # Windows: one process writes there
    fcntl = None  # type: ignore[assignment]

MAX_LINE = 1 << 24  # bytes; a curve of 100,000 points has a quarter of it


@dataclass(frozen=True)
class Found:
    """What :func:`read` found.

    Attributes:
        records: The records, in the order of the lines.
        problems: One ``file:line: reason`` for every line that was skipped.
    """

    records: list[Record]
    problems: list[str]


# ------------------------------------------------------------------------------- writing


def append(path: str | Path, record: Record) -> None:
    """Add one line; it is on the disk when this returns. Processes may do so at the same time.

    Missing parent folders are made.

    Raises:
        RefusedError: If the record has values of a wrong type, which nobody could read again.
        OSError: If the file cannot be written. It has the lines that it had before.
    """
    line, path = to_line(record), Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o644)
    try:
        locked = _lock(descriptor)
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if size and os.lseek(descriptor, -1, os.SEEK_END) >= 0 and os.read(descriptor, 1) != b"\n":
            line = b"\n" + line  # ends what a killed process left
        try:
            _write(descriptor, line)
            os.fsync(descriptor)
        except OSError:
            # Without the lock these may be the lines of another process.
            with contextlib.suppress(OSError):
                if locked:
                    os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)  # gives the lock back
    if is_new:
        fsync_folder(path.parent)


def to_line(record: Record) -> bytes:
    """Return the line of a record with its end, in ASCII; what is not finite becomes ``null``.

    Raises:
        RefusedError: If a value has a wrong type, or the line is longer than readers accept.
    """
    try:
        content = {"format": FORMAT, "version": VERSION, **asdict(record)}
        line = to_json(content, indent=None).encode("ascii")
        if len(line) > MAX_LINE:
            raise ValueError(f"it has {len(line):,} bytes; {MAX_LINE:,} are allowed")
        parse_line(json.loads(line))
    except (TypeError, ValueError, RecursionError) as error:
        raise RefusedError(f"The record of {record.key} cannot be written: {error}.") from None
    return line


def _lock(descriptor: int) -> bool:
    """Wait for the file's lock; it ends with the process. False where there are no locks."""
    try:
        if fcntl is None:
            raise OSError("no locks")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:  # a network file system without locks
        return False
    return True


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:  # a second round only where a disk or a quota is almost full
        rest = rest[os.write(descriptor, rest) :]


# ------------------------------------------------------------------------------- reading


def read(paths: str | Path | Iterable[str | Path]) -> Found:
    """Read the records of one or several files, whatever else is in them.

    Half lines, other formats and wrong types are skipped and reported; keys that are not known are
    ignored. A file that does not exist (yet) has no records. A file may grow meanwhile.
    """
    found = Found([], [])
    for path in [paths] if isinstance(paths, str | Path) else paths:
        try:
            for number, line in _lines(Path(path)):
                try:
                    found.records.append(parse_line(_decode(line)))
                except ValueError as error:
                    found.problems.append(f"{path}:{number}: {error}; skipped")
        except FileNotFoundError:
            continue
        except OSError as error:
            found.problems.append(f"{path}: {error.strerror or error}; not read")
    return found


def latest(records: Iterable[Record]) -> dict[Key, Record]:
    """Return the record that counts of every cell, sorted by the cells' keys.

    It is the last one, but a result is never replaced by a later failure.
    """
    chosen: dict[Key, Record] = {}
    for record in records:
        earlier = chosen.get(record.key)
        if earlier is None or record.status == "ok" or earlier.status == "failed":
            chosen[record.key] = record
    return dict(sorted(chosen.items()))


def from_result(result: Mapping[str, Any], suite: str, size: str, **extra: Any) -> Record:
    """Make the record of a run that ended well.

    Args:
        result: Contents of the run's ``result.json``; what a record does not have is left out.
        suite: Name of the suite.
        size: Size of the suite.
        extra: Fields of :class:`Record` that are added or replaced, such as ``run_dir``.

    Raises:
        RefusedError: If a field is missing or has a wrong type.
        TypeError: If a name in ``extra`` is no field.
    """
    if unknown := sorted(set(extra) - set(CHECKS)):
        raise TypeError(f"a record has no field {unknown[0]!r}")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    known = {name: result[name] for name in CHECKS if name in result}
    facts = {"date": now, **known, "suite": suite, "size": size, "status": "ok", **extra}
    try:
        return parse(facts)
    except ValueError as error:
        raise RefusedError(
            f"This result cannot be recorded: {error}.",
            todo="Give the contents of a result.json that rlzoo train wrote.",
        ) from None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number and content of every line that is not empty; at most ``MAX_LINE + 1`` bytes of it."""
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            rest = line
            while not rest.endswith(b"\n") and (rest := file.readline(MAX_LINE)):
                pass
            if line.strip():
                yield number, line


def _decode(line: bytes) -> Any:
    if len(line) > MAX_LINE:
        raise ValueError(f"longer than {MAX_LINE:,} bytes")
    try:
        return json.loads(line.decode())
    except (ValueError, RecursionError):
        # The decoder's own words are about columns and need not be short.
        end = "" if line.endswith(b"\n") else ", its end is missing"
        raise ValueError(f"not a whole line of JSON{end}") from None


# ------------------------------------------------------------------------------- other libraries

_EVALUATION = ("return_mean", "return_std", "episodes", "normalized")
_COLUMNS = ("agent", "env", "seed", "return_mean")
_NUMBERS = frozenset(
    ("seed", "step", "total_timesteps", "wall_seconds", "steps_per_second", *_EVALUATION)
)


def import_records(
    path: str | Path, suite: str = "imported", size: str = "imported", source: str | None = None
) -> list[Record]:
    """Read results of another library, to be compared with those of rlzoo.

    The file is JSON lines of the same shape, where ``format`` may be left out, or a CSV (named
    ``.csv``) with the columns ``agent, env, seed, return_mean`` and, if known, ``return_std,
    episodes, normalized, step, suite, size, preset, source, status, error, metrics.<name>`` and
    other fields of a record. Several rows of one run, told apart by ``step``, become its curve; the
    last is the final result. An agent is named with its source, so that it has its own row.

    Args:
        path: The file.
        suite: Suite of rows that name none.
        size: Size of rows that name none.
        source: Source of rows that name none; the name of the file without its ending if None.

    Returns:
        One record per run, in the order of the file.

    Raises:
        RefusedError: With the line, if any row cannot be read. Nothing is imported by halves.
    """
    path = Path(path)
    defaults = {"suite": suite, "size": size, "preset": "default", "status": "ok"}
    defaults["source"] = source or path.stem
    evaluations: dict[Key, dict[int | None, Record]] = {}
    number = 0
    is_csv = path.suffix.lower() == ".csv"
    try:
        for number, row in _csv_rows(path) if is_csv else _lines(path):  # noqa: B007 - named below
            content = _cells(row) if isinstance(row, dict) else _decode(row)
            step, record = _imported(content, defaults)
            steps = evaluations.setdefault(record.key, {})
            if steps and (step is None or step in steps or None in steps):
                raise ValueError("this agent, env and seed are there already, at no other step")
            steps[step] = record
    except OSError as error:
        raise RefusedError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, csv.Error) as error:
        raise RefusedError(
            f"{path}:{number or 1}: {error}.",
            f"A CSV has the columns {', '.join(_COLUMNS)}; JSON lines have a record's fields.",
            "Nothing was imported; correct that line.",
        ) from None
    return [_joined(steps) for steps in evaluations.values()]


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str | None, Any]]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        columns = [column.strip() for column in reader.fieldnames or ()]
        if len(set(columns)) < len(columns):
            raise ValueError("a column is there twice")
        for column in _COLUMNS:
            if column not in columns:
                raise ValueError(f"no column {column}, only {', '.join(columns)[:100] or 'none'}")
        reader.fieldnames = columns
        for row in reader:
            yield reader.line_num, row


def _cells(row: Mapping[str | None, Any]) -> dict[str, Any]:
    """Return the cells of a CSV that are not empty, as the values that a line of JSON has."""
    values: dict[str, Any] = {}
    for name, cell in row.items():
        if name is None:
            raise ValueError("more cells than columns; decimals have a point")
        cell = (cell or "").strip()
        if not cell:
            continue
        start, _, metric = name.partition("metrics.")
        if metric and not start:
            values.setdefault("metrics", {})[metric] = _as_number(name, cell)
        else:
            values[name] = _as_number(name, cell) if name in _NUMBERS else cell
    return values


def _as_number(name: str, cell: str) -> float:
    try:
        return int(cell)
    except ValueError:
        pass
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"{name} {cell!r} is not a number") from None


def _imported(content: Any, defaults: Mapping[str, str]) -> tuple[int | None, Record]:
    """Return the step, where one is given, and the record of one row."""
    if not isinstance(content, dict):
        raise ValueError("not a mapping of names")
    flat = {name: content[name] for name in _EVALUATION if name in content}
    record = parse({**defaults, **({"final": flat} if flat else {}), **content})
    result = (record.final or {}).get("return_mean")
    if record.status == "ok" and result is None and not record.metrics:
        raise ValueError("return_mean is missing or not finite")
    if record.source != "rlzoo":
        record = replace(record, agent=f"{record.agent} ({record.source})")
    step = content.get("step")
    if step is None:
        return None, record
    step = whole_number(step)
    if record.total_timesteps is None:
        record = replace(record, total_timesteps=step)
    return step, record


def _joined(steps: Mapping[int | None, Record]) -> Record:
    """Make one record of the evaluations of a run, which have all a step or are only one."""
    last = steps[max(steps, key=lambda step: step or 0)]
    points = []
    for step, record in steps.items():
        value = (record.final or {}).get("return_mean")
        if step is not None and value is not None:
            points.append((step, float(value)))
    if last.curve or not points:
        return last
    top = max(points, key=lambda point: point[1])[0]
    best = last.best or {**(steps[top].final or {}), "step": top}
    return replace(last, curve=tuple(sorted(points)), best=best)
