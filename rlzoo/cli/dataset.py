"""``rlzoo dataset``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlzoo.cli import options
from rlzoo.errors import RefusedError

if TYPE_CHECKING:
    from rlzoo.data import Transitions

app = typer.Typer(no_args_is_help=True, help="Data sets: list, check, import, export.")
Source = Annotated[
    str, typer.Argument(metavar="ID|PATH", help="Minari id, Minari folder or D4RL .hdf5 file.")
]
_BARS = " ▁▂▃▄▅▆▇█"


@app.command("list")
def list_datasets() -> None:
    """List the recipes, and the data sets that are in the local Minari store."""
    from rlzoo.data.scores import normalized_score
    from rlzoo.report.tables import number, plus_minus, text_table
    from rlzoo.runs.datasets import list_known

    rows = []
    for known in list_known():
        returns = known.returns or {}
        mean = returns.get("mean")
        rows.append(
            (
                known.id,
                "here" if known.here else "not collected",
                known.env_id or "-",
                number(known.size, 0),
                number(known.episodes, 0),
                plus_minus(mean, returns.get("std")),
                number(None if mean is None else normalized_score(known.env_id, mean)),
            )
        )
    columns = ("data set", "state", "env", "transitions", "episodes", "return", "normalised")
    print(text_table(columns, rows, right=columns[3:]))
    print(
        "\nA recipe may name its size, as in rlzoo/hopper/medium-100k-v0; rlzoo collect makes it."
    )


@app.command()
def check(
    source: Source,
    drop_bad: Annotated[
        bool, typer.Option("--drop-bad", help="Drop episodes with NaN or Inf.")
    ] = False,
    repair: Annotated[
        str | None, typer.Option(metavar="clip", help="Clip actions to their bounds.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="ID|FILE", help="Write the repaired data set there."),
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Say what a data set holds and what is wrong with it; exit code 2 if training refuses it."""
    from rlzoo.data.inspect import summarise
    from rlzoo.data.validate import DatasetWarning
    from rlzoo.data.validate import drop_bad as drop
    from rlzoo.data.validate import repair as repaired
    from rlzoo.runs.datasets import store

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DatasetWarning)  # they are printed as problems
        data, refusal = _open(source)
        if drop_bad:
            data = drop(data)
        if repair is not None:
            data = repaired(data, repair)
        found = summarise(data)
        print(_summary(found))
        if any(problem["severity"] == "error" for problem in found["problems"]):
            raise typer.Exit(2)
        if refusal is not None and not (drop_bad or repair):
            raise refusal  # nothing is wrong but the file itself, such as its fingerprint
        if out is not None:
            stored = store(data, out, overwrite)
            print(f"written       {stored.dataset_id}, fingerprint {stored.fingerprint}")


@app.command("import")
def import_dataset(
    path: Annotated[
        str, typer.Argument(help="D4RL .hdf5 file, Minari folder, or SB3 replay buffer (.pkl).")
    ],
    dataset_id: Annotated[str, typer.Option("--id", metavar="ID", help="Such as my/hopper-v0.")],
    env: options.Env = None,
    overwrite: options.Overwrite = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Unpickle a replay buffer (.pkl): this runs its code.")
    ] = False,
) -> None:
    """Check a data set and put it into the local Minari store."""
    from rlzoo.cli.collect import describe
    from rlzoo.data import load_dataset
    from rlzoo.runs.datasets import is_file, store

    if is_file(dataset_id):
        raise RefusedError(f"{dataset_id} is no Minari id.", "Allowed: an id such as my/hopper-v0.")
    options_: dict[str, Any] = {}
    if env is not None and Path(path).is_file():
        options_["env_id"] = env
    data = load_dataset(path, trust_pickle=trust, **options_)
    if env is not None:
        data = data.with_metadata(env_id=env)
    print(describe(store(data, dataset_id, overwrite)))


@app.command()
def export(
    source: Source,
    to: Annotated[
        Path,
        typer.Option(metavar="FILE", help="x.hdf5: D4RL layout. x.pkl: SB3 replay buffer."),
    ],
    overwrite: options.Overwrite = False,
) -> None:
    """Write a data set as a file for other libraries."""
    from rlzoo.runs.datasets import export_dataset

    data = export_dataset(source, to, overwrite)
    print(f"{to}: {len(data):,} transitions, fingerprint {data.fingerprint}")


def _open(source: str) -> tuple[Transitions, RefusedError | None]:
    """Return a data set, valid or not, and why it is refused."""
    from rlzoo.data import load_dataset
    from rlzoo.runs.datasets import open_unchecked

    try:
        return load_dataset(source), None
    except RefusedError as error:
        return open_unchecked(source), error


def _summary(found: dict[str, Any]) -> str:
    from rlzoo.data.validate import Problem
    from rlzoo.report.tables import number, plus_minus

    returns, lengths = found["returns"] or {}, found["episode_lengths"] or {}
    actions = found["arrays"]["actions"]
    at_bounds = found["actions_at_bounds"]
    said = [str(Problem(**problem)) for problem in found["problems"]]
    notes = [note for note in found["notes"] if note not in said] or ["-"]
    lines = [
        f"data set      {found['id']} ({found['env_id'] or 'environment unknown'})",
        f"size          {found['transitions']:,} transitions, {found['episodes']:,} episodes "
        f"({number(found['complete_episodes'], 0)} complete), {found['megabytes']:,.1f} MB",
        f"observations  {_array(found['arrays']['observations'])}",
        f"actions       {_array(actions)}"
        + ("" if at_bounds is None else f", {100 * at_bounds:.1f} % at a bound"),
        f"rewards       {_array(found['arrays']['rewards'])}",
        f"episode ends  {found['terminations']:,} terminations, "
        f"{found['truncations']:,} truncations",
        f"lengths       mean {number(lengths.get('mean'))}, {number(lengths.get('min'), 0)} to "
        f"{number(lengths.get('max'), 0)}",
        f"return        {plus_minus(returns.get('mean'), returns.get('std'))}, "
        f"{number(returns.get('min'))} to {number(returns.get('max'))} "
        f"{_histogram(found['return_histogram'])}, normalised {number(found['normalized_score'])}",
        f"fingerprint   {found['fingerprint']}",
        f"notes         {'; '.join(notes)}",
    ]
    problems = [
        f"{'WRONG' if problem['severity'] == 'error' else 'unusual':<12}  {text}"
        for problem, text in zip(found["problems"], said, strict=True)
    ]
    return "\n".join([*lines, *(problems or ["Nothing is wrong."])])


def _array(facts: dict[str, Any]) -> str:
    low, high = (number_or_dash(facts[side]) for side in ("min", "max"))
    shape = "x".join(str(n) for n in facts["shape"])
    bad = f", {facts['not_finite']} not finite" if facts.get("not_finite") else ""
    return f"{shape} {facts['dtype']}, {low} to {high}{bad}"


def number_or_dash(value: float | None) -> str:
    """Return four significant digits, or ``-``."""
    return "-" if value is None else f"{value:.4g}"


def _histogram(histogram: dict[str, Any] | None) -> str:
    counts = (histogram or {}).get("counts") or []
    highest = max(counts, default=0)
    if not highest:
        return ""
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // highest)] for count in counts)
