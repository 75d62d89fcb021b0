"""The logs of a run: ``progress.csv`` and TensorBoard's event file.

Both are SB3's own formats. What differs is how they reach the disk: rows and events are written at
once and whole, without a buffer and without a thread, so that SIGKILL loses none and a full disk
leaves no half of one. After a resume they hold one clean curve.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from stable_baselines3.common.logger import CSVOutputFormat, Logger, filter_excluded_keys

from rlzoo.core.safe_files import remove_leftovers, write_atomic
from rlzoo.runs.event_file import TensorBoardOutput
from rlzoo.runs.records import Guard, Records, Warn

CSV_NAME = "progress.csv"
STEP = "time/total_timesteps"


def run_logger(folder: Path, warn: Warn, after: int | None = None) -> Logger:
    """Return a logger that writes ``progress.csv`` and ``events.out.tfevents…`` into a folder.

    Args:
        folder: Run folder; made if it is missing.
        warn: Gets one line per file, the first time that the file cannot be written. Later writes
            try again silently.
        after: None for a new run. Otherwise the run goes on after this step, and rows and events
            of later steps vanish, also from a TensorBoard that has read them already.

    Raises:
        OSError: If the folder cannot be made. Nothing later raises one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if after is not None:
        with contextlib.suppress(OSError):
            remove_leftovers(folder)
    outputs = [CsvOutput(folder / CSV_NAME, warn, after), TensorBoardOutput(folder, warn, after)]
    return RunLogger(str(folder), outputs)


def add_images(folder: Path, files: Mapping[str, Path], step: int, warn: Warn) -> None:
    """Show pictures in TensorBoard, as ``pictures/<name>``.

    Args:
        folder: Run folder, whose logger has been closed.
        files: Name to PNG file.
        step: Step that they belong to, the last one of the run.
        warn: As in :func:`run_logger`.
    """
    output = TensorBoardOutput(folder, warn, step)
    for name, file in files.items():
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
        output.writer.add_image(f"pictures/{name}", pixels, step, dataformats="HWC")
    output.close()


class RunLogger(Logger):
    """SB3's logger; ``time/iterations``, which ``learn`` starts at one, goes on after a resume."""

    iterations_before = 0

    def record(self, key: str, value: Any, exclude: str | tuple[str, ...] | None = None) -> None:
        """Log a value, as in SB3."""
        if key == "time/iterations":
            value += self.iterations_before
        super().record(key, value, exclude)


def flush(logger: Logger) -> None:
    """Force everything that was logged to the disk, so that it survives even a power cut.

    SIGKILL loses nothing without it. Outputs that :func:`run_logger` did not make are left alone.
    """
    for output in logger.output_formats:
        if isinstance(output, CsvOutput | TensorBoardOutput):
            output.sync()


class CsvOutput(CSVOutputFormat):
    """SB3's CSV; rows that lack ``time/total_timesteps`` get it from the step of their dump.

    Args:
        path: The file.
        warn: As in :func:`run_logger`.
        after: As in :func:`run_logger`.
    """

    def __init__(self, path: Path, warn: Warn, after: int | None = None) -> None:
        # Not SB3's constructor, which empties the file. Its write() renders rows into self.file.
        self.file = io.StringIO()  # type: ignore[assignment]
        self.keys, self.separator, self.quotechar = [], ",", '"'
        self._records, self._guard, self._after = Records(path), Guard(path, warn), after
        self._columns: list[str] | None = None  # those of the file; None until it was looked at
        with self._guard:
            self._start()

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Add a row, and columns for keys that are new."""
        values = filter_excluded_keys(key_values, key_excluded, "csv")
        if not values:
            return
        values.setdefault(STEP, step)
        with self._guard:
            self._start()
            # SB3 takes them in the order of a set, which differs from process to process.
            self.keys += sorted(values.keys() - set(self.keys))
            row = self._render(values, step)
            if self._records.open() == 0:
                row = _csv_line(self.keys) + row
            elif self._columns != self.keys:
                self._rewrite()
            self._records.append(row.encode(errors="surrogateescape"))
            self._columns = list(self.keys)

    def sync(self) -> None:
        """Wait until every row is on the disk."""
        with self._guard:
            self._records.sync()

    def close(self) -> None:
        """Close the file."""
        with self._guard:
            self._records.close()

    def _render(self, values: dict[str, Any], step: int) -> str:
        """Return the row as SB3 writes it; no key is new, so it writes nothing else."""
        self.file = io.StringIO()  # type: ignore[assignment]
        super().write(values, {}, step)
        return self.file.getvalue()  # type: ignore[attr-defined, no-any-return]

    def _start(self) -> None:
        """Bring the file into its first state; tried again at the next row if the disk is full."""
        if self._columns is not None:
            return
        if self._after is None:
            with open(self._records.path, "wb"):
                self._columns = []
        elif self._records.path.is_file():
            self._rewrite(self._after)
        else:
            self._columns = []

    def _rewrite(self, after: int | None = None) -> None:
        """Give the file the columns of ``self.keys``; with ``after``, drop later rows as well."""
        path = self._records.path
        before = path.read_bytes()
        columns, rows = _parse(before)
        if after is not None:
            rows = _up_to(columns, rows, after)
        keys = columns + [key for key in self.keys if key not in columns]
        empty = self.separator * (len(keys) - len(columns))
        text = _csv_line(keys) + "".join(f"{row}{empty}\n" for row in rows) if keys else ""
        content = text.encode(errors="surrogateescape")
        if before.startswith(content):
            os.truncate(path, len(content))  # Works on a full disk, too.
        else:
            write_atomic(path, content)
        self._records.replaced()
        self.keys, self._columns = keys, list(keys)


def _csv_line(fields: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(fields)
    return line.getvalue()


def _fields(row: str) -> list[str]:
    return next(csv.reader(io.StringIO(row, newline="")), [])


def _parse(content: bytes) -> tuple[list[str], list[str]]:
    """Return the columns and the whole rows, as text without the newline, of a CSV file.

    A newline inside of quotes does not end a row. What a killed process wrote of its last row,
    which is after the last newline or has an open quote, is left out.
    """
    *lines, _ = content.decode(errors="surrogateescape").split("\n")
    rows: list[str] = []
    parts: list[str] = []
    quotes = 0
    for line in lines:
        parts.append(line)
        quotes += line.count('"')
        if quotes % 2 == 0:
            rows.append("\n".join(parts))
            parts, quotes = [], 0
    return (_fields(rows[0]), rows[1:]) if rows else ([], [])


def _up_to(columns: list[str], rows: list[str], last: int) -> list[str]:
    """Return the rows of steps up to ``last``; one without a step belongs to the one before."""
    if STEP not in columns:
        return rows
    index, step, kept = columns.index(STEP), 0.0, []
    for row in rows:
        with contextlib.suppress(ValueError, IndexError, csv.Error):
            step = float(_fields(row)[index])
        if step <= last:
            kept.append(row)
    return kept
