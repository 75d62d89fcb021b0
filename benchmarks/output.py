"""A result as three files: a table in Markdown, a figure, and the numbers behind both."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rlzoo.report.tables import markdown_table
from rlzoo.runs.provenance import commit, machine


def folder(name: str) -> Path:
    """Return the folder of an experiment's results, from the root of the project."""
    return Path("benchmarks/results") / name


def provenance(**facts: Any) -> dict[str, Any]:
    """Return command, commit, versions and machine beside other facts, such as seeds."""
    import torch

    script = Path(sys.argv[0]).resolve().relative_to(Path(__file__).resolve().parents[1])
    command = " ".join(["python -m", ".".join(script.with_suffix("").parts), *sys.argv[1:]])
    return {
        "command": command,
        "commit": commit(),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "processor": machine(torch.device("cpu"))["processor"],
        **facts,
    }


def new_figure(panels: int) -> tuple[Figure, list[Any]]:
    """Return a figure with panels side by side, without a display."""
    figure = Figure(figsize=(5.6 * panels, 4.4), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(1, panels, index + 1) for index in range(panels)]


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown; all but the first column are aligned to the right."""
    return markdown_table(columns, rows, columns[1:])


def publish(
    folder: Path, name: str, title: str, text: str, figure: Figure, facts: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
) -> None:  # fmt: skip
    """Write ``name.md``, ``name.png`` and ``name.jsonl``, and print the first."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", metadata={"Software": None})
    lines = [f"- {key.replace('_', ' ')}: `{value}`" for key, value in facts.items()]
    page = f"# {title}\n\n{text}\n\n![{title}]({name}.png)\n\n" + "\n".join(lines) + "\n"
    (folder / f"{name}.md").write_text(page, encoding="utf-8")
    # JSON lines: how it was made, then one result per line.
    records = [json.dumps(record) for record in (facts, *results)]
    (folder / f"{name}.jsonl").write_text("\n".join(records) + "\n", encoding="utf-8")
    print(page)
