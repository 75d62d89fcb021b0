"""Entry point of ``rlzoo``: one file per command, torch only inside of commands, short errors."""

from __future__ import annotations

import contextlib
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from rlzoo import __version__
from rlzoo.cli import (
    agents,
    benchmark,
    collect,
    config,
    dataset,
    demo,
    doctor,
    encoder,
    evaluate,
    inspect,
    leaderboard,
    record,
    report,
    resume,
    train,
    tune,
)
from rlzoo.errors import RlzooError

app = typer.Typer(
    name="rlzoo",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: rlzoo demo, or rlzoo list.",
)
app.command("train")(train.train)
app.command("resume")(resume.resume)
app.command("eval")(evaluate.evaluate)
app.command("collect")(collect.collect)
app.command("encoder")(encoder.encoder)
app.add_typer(dataset.app, name="dataset")
app.add_typer(config.app, name="config")
app.command("benchmark")(benchmark.benchmark)
app.add_typer(leaderboard.app, name="leaderboard")
app.command("tune")(tune.tune)
app.command("record")(record.record)
app.command("report")(report.report)
app.command("inspect")(inspect.inspect)
app.command("list")(agents.list_agents)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"rlzoo {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; works anywhere.")
    ] = False,
) -> None:
    """A reinforcement-learning algorithm zoo: papers as true Stable-Baselines3 agents."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the name of the program; those of the process by default.

    Returns:
        The exit code: 0, 1 for a failure, 2 for refused input, 130 after Ctrl-C.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in given
    arguments = [argument for argument in given if argument != "--debug"]
    try:
        with _short_warnings():
            code = app(arguments, prog_name="rlzoo", standalone_mode=False, obj=given)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _explain(error)
    if code == 130:
        print("Interrupted.", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _explain(error: Exception) -> int:
    """Print an error in at most three lines and return the exit code."""
    if isinstance(error, RlzooError):
        print(error, file=sys.stderr)
        return error.exit_code
    if hasattr(error, "format_message"):  # Typer's usage errors, whichever click it brings
        usage: Any = error
        context = getattr(usage, "ctx", None)
        text = " ".join(usage.format_message().split())
        if not text:  # no arguments: the help was shown
            return int(usage.exit_code)
        print(text, file=sys.stderr)
        print(f"Help: {context.command_path if context else 'rlzoo'} --help", file=sys.stderr)
        return int(usage.exit_code)
    what = " ".join(str(error).split())[:300]
    print(f"Internal error: {type(error).__name__}: {what}", file=sys.stderr)
    print("This should not happen; --debug shows where it comes from.", file=sys.stderr)
    return 1


@contextlib.contextmanager
def _short_warnings() -> Iterator[None]:
    """Print a warning as one line, and the same text only once."""
    before = warnings.formatwarning
    warnings.formatwarning = _one_line
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("once", category=UserWarning)
            yield
    finally:
        warnings.formatwarning = before


def _one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    return f"Warning: {' '.join(str(message).split())}\n"


if __name__ == "__main__":
    sys.exit(main())
