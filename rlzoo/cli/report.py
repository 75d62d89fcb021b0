"""``rlzoo report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|FOLDER", help="Run folder, folder of runs, or folder of a benchmark."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="HTML file; report.html in the folder by default."),
    ] = None,
) -> None:
    """Write one HTML file with tables, curves, settings and provenance, to mail or attach."""
    from rlzoo.cli.suites import suite_facts
    from rlzoo.report.html import write_report
    from rlzoo.report.leaderboard import RESULTS

    benchmark = folder if (folder / RESULTS).is_file() else None
    print(write_report(folder, out, lambda records: suite_facts(records, benchmark)))
