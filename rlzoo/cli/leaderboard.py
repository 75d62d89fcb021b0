"""``rlzoo leaderboard``: build, show, serve."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlzoo.cli.suites import suite_facts
from rlzoo.errors import RefusedError

if TYPE_CHECKING:
    from rlzoo.report.leaderboard import Built
    from rlzoo.report.leaderboard_table import Table
    from rlzoo.report.records import Record

app = typer.Typer(
    no_args_is_help=True, help="Compare agents: tables, figures and a TensorBoard from results."
)

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="[DIR]", help="Folder of a benchmark, or of several: searched for results.jsonl."
    ),
]
Import = Annotated[
    list[Path] | None,
    typer.Option(
        "--import",
        metavar="FILE",
        help="Results of another library (JSON lines or CSV) to put beside; may be repeated.",
    ),
]
SuiteFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--suite",
        metavar="FILE",
        help="Suite of one's own that the results are of; benchmarks keep a copy beside them.",
    ),
]
BENCHMARKS = Path("runs/bench")


@app.command("build")
def build(folder: Folder = BENCHMARKS, imported: Import = None, suites: SuiteFiles = None) -> None:
    """Make leaderboard.md, .csv, .json, figures/ and a TensorBoard folder tb/ from the results."""
    built = _build(folder, imported, suites)
    runs = sum(len(row.records) for table in built.tables for row in table.rows)
    print(f"Built from {runs:,} results:")
    figures = [path for path in built.files if path.suffix == ".png"]
    for path in (built.view, *(path for path in built.files if path not in figures)):
        print(f"  {path}")
    if figures:
        print(f"  {figures[0].parent} ({len(figures)} figures)")
    print(f"Look at it with: rlzoo leaderboard serve {folder}")


@app.command("show")
def show(
    folder: Folder = BENCHMARKS,
    imported: Import = None,
    suites: SuiteFiles = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one row per cell.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Print the leaderboard; nothing is written."""
    from rlzoo.report.leaderboard_table import tabulate
    from rlzoo.report.leaderboard_text import to_csv, to_json_text, to_markdown

    chosen = [
        write
        for wanted, write in ((as_csv, to_csv), (as_json, to_json_text), (as_markdown, to_markdown))
        if wanted
    ]
    if len(chosen) > 1:
        raise RefusedError("More than one format.", "One of --csv, --json and --markdown.")
    records = _read(folder, imported)
    tables = tabulate(records, suite_facts(records, folder, suites or (), _say))
    if chosen:
        print(chosen[0](tables), end="")
    else:
        _print(tables)


@app.command("serve")
def serve(
    folder: Folder = BENCHMARKS,
    imported: Import = None,
    suites: SuiteFiles = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 6006,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than localhost let others read it.")
    ] = "localhost",
) -> None:
    """Build the leaderboard and show it in TensorBoard until Ctrl-C."""
    from rlzoo.report.tensorboard_server import TensorBoard, free_port, is_local

    free_port(host, port)  # refused before anything is built
    if not is_local(host):
        _say(
            f"Warning: everyone who can reach {host} can read this leaderboard: TensorBoard has "
            "no password."
        )
    view = _build(folder, imported, suites).view
    # Otherwise a terminated parent would leave TensorBoard behind.
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        with TensorBoard(view, host, port) as server:
            print(f"Leaderboard: {server.url}#hparams (Ctrl-C ends it)", flush=True)
            _watch(server, view)
    finally:
        signal.signal(signal.SIGTERM, before)


def _watch(server: Any, view: Path) -> None:
    """Wait for Ctrl-C; start TensorBoard again when the folder was built anew."""
    from rlzoo.report.tensorboard_view import version_of

    version = version_of(view)
    while True:
        time.sleep(1)
        server.check()
        newer = version_of(view)
        if newer is not None and newer != version:
            version = newer
            server.restart()
            _say("The leaderboard was built again; reload the page.")


def _exit(*_: object) -> None:
    sys.exit(143)


def _build(folder: Path, imported: Sequence[Path] | None, suites: Sequence[Path] | None) -> Built:
    from rlzoo.report.leaderboard import build as build_leaderboard

    records = _read(folder, imported)
    facts = suite_facts(records, folder, suites or (), _say)
    return build_leaderboard(records, folder, facts)


def _read(folder: Path, imported: Sequence[Path] | None) -> list[Record]:
    """Return the records below a folder and those of other libraries; say what cannot be read."""
    from rlzoo.report import records
    from rlzoo.report.leaderboard import find_results

    found = records.read(find_results(folder))
    for problem in found.problems:
        _say(f"Warning: {problem}")
    # Rows that do not say where they belong stand beside the only benchmark that there is.
    places = {(record.suite, record.size) for record in found.records}
    place = next(iter(places)) if len(places) == 1 else ("imported", "imported")
    others = [r for path in imported or () for r in records.import_records(path, *place)]
    if not found.records and not others:
        raise RefusedError(
            f"{folder} has no readable results.",
            todo="Run the benchmark again.",
        )
    return [*found.records, *others]


def _print(tables: Sequence[Table]) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    from rlzoo.report.leaderboard_text import heading_of, legend, numeric, sections
    from rlzoo.report.tables import text_table

    console = Console(highlight=False)
    for table in tables:
        print(heading_of(table))
        for heading, (columns, rows) in sections(table):
            if heading:
                print(f"\n{heading}")
            if not console.is_terminal:  # a file has no width to fit into
                print(text_table(columns, rows, right=numeric(columns)))
                continue
            shown = RichTable()
            for name in columns:
                right = "right" if name in numeric(columns) else "left"
                shown.add_column(Text(name), justify=right)  # type: ignore[arg-type]
            for row in rows:
                shown.add_row(*map(Text, row))
            console.print(shown)
        for note in (legend(table), *table.notes):
            print(note)
        print()


def _say(text: str) -> None:
    print(text, file=sys.stderr)
