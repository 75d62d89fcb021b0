"""``rlzoo inspect``."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def inspect(
    file: Annotated[str, typer.Argument(metavar="MODEL|RUN", help="model.zip or run folder.")],
) -> None:
    """Show what a model file holds, without running anything that is in it."""
    from rlzoo.runs.model_info import describe_model

    found = describe_model(file)
    print("\n".join(_lines(found)))


def _lines(found: dict[str, Any]) -> list[str]:
    from rlzoo.report.tables import text_table

    ours = found["class"] is not None
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    counters = ", ".join(f"{name.strip('_')} {value}" for name, value in found["counters"].items())
    lines = [
        f"file          {found['path']}",
        f"class         {found['class'] or 'unknown: not saved by rlzoo'}",
        f"policy        {found['policy'] or '-'}",
        f"observations  {found['observation_space'] or '-'}",
        f"actions       {found['action_space'] or '-'}",
        f"written by    {versions or 'unknown'}",
        f"counters      {counters or '-'}",
        f"loads         {'without unpickling' if ours else 'only by unpickling: --trust'}",
    ]
    if found["left_out"]:
        lines.append(f"left out      {', '.join(found['left_out'])}")
    settings = [(name, repr(value)) for name, value in found["settings"].items()]
    sizes = [(name, f"{size:,}") for name, size in found["members"]]
    pickles = [(name, ", ".join(imports) or "-") for name, imports in found["pickles"].items()]
    if settings:
        lines += ["", text_table(("setting", "value"), settings)]
    lines += ["", text_table(("member", "bytes"), sizes, right=("bytes",))]
    if pickles:
        note = "not read by rlzoo" if ours else "what unpickling them would import"
        lines += ["", text_table(("pickle", note), pickles)]
    return lines
