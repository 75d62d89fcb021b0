"""``rlzoo report``: one HTML file about a run, a benchmark or several runs, to mail or attach.

The file needs nothing else: figures are inside as SVG, there is no script, and a content policy
forbids the browser to load anything. The same folder gives the same bytes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rlzoo import __version__
from rlzoo.core.safe_files import write_atomic
from rlzoo.errors import FailedError, RefusedError
from rlzoo.report import html_compare, html_run
from rlzoo.report.html_parts import MARK, page
from rlzoo.report.run_files import find_runs, is_run, read_run

if TYPE_CHECKING:
    from rlzoo.report.html_benchmark import FactsOf

NAME = "report.html"
RECORDS = "results.jsonl"


def render(path: str | Path, facts_of: FactsOf | None = None) -> str:
    """Return the page of a run folder, of a folder with ``results.jsonl``, or of a folder of runs.

    Args:
        path: The folder, or a file of records.
        facts_of: Gets the records of a benchmark and returns what is known about their suites;
            see :func:`rlzoo.report.leaderboard_table.tabulate`.

    Raises:
        RefusedError: If there is nothing to report. What is damaged is shown as such.
    """
    path = Path(path)
    records = path if path.is_file() else path / RECORDS
    if not path.exists():
        raise RefusedError(f"{path} does not exist.", todo="Give a run folder, as runs/… has them.")
    if records.is_file():
        from rlzoo.report import html_benchmark

        title, parts = html_benchmark.body(records, facts_of)
    elif is_run(path):
        title, parts = html_run.body(read_run(path))
    else:
        found, problems = find_runs(path)
        if not found:
            raise RefusedError(
                f"{path} holds no run and no {RECORDS}.",
                "Allowed: a run folder, a folder of runs, a folder of rlzoo benchmark.",
            )
        title, parts = html_compare.body(path, [read_run(run) for run in found], problems)
    return page(title, *parts, version=__version__)


def write_report(
    path: str | Path,
    out: str | Path | None = None,
    facts_of: FactsOf | None = None,
) -> Path:
    """Write :func:`render` to a file.

    Args:
        path: As :func:`render`.
        out: The file; ``report.html`` in the folder by default. A report is replaced, any other
            file is not.
        facts_of: As :func:`render`.

    Returns:
        The file.

    Raises:
        RefusedError: As :func:`render`, or if ``out`` is another file or a folder.
        FailedError: If the file cannot be written.
    """
    path = Path(path)
    target = Path(out) if out is not None else (path.parent if path.is_file() else path) / NAME
    _refuse_other(target)
    text = render(path, facts_of)
    try:
        write_atomic(target, text)
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or 0)
        raise FailedError(
            f"{target} cannot be written: {reason}.", todo="Give another file with --out."
        ) from None
    return target


def _refuse_other(target: Path) -> None:
    """Refuse to replace anything that is not a report."""
    if target.is_dir():
        raise RefusedError(f"{target} is a folder.", todo=f"Try --out {target / NAME}")
    if not target.exists():
        return
    try:
        with open(target, "rb") as file:
            start = file.read(200)
    except OSError:
        start = b""
    if start and MARK.encode() not in start:
        raise RefusedError(
            f"{target} exists and is no report of rlzoo.", todo="Give another file with --out."
        )
