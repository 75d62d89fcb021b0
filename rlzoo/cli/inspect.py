"""``rlzoo inspect``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

_WIDTH = 200


def inspect(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE|FOLDER",
            help="model.zip, run folder, checkpoint folder, .pkl, .npz, .safetensors or .pth.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a file holds, without running anything that is in it."""
    from rlzoo.runs.file_info import describe

    found = describe(file)
    if as_json:
        print(json.dumps(found, default=str))
        return
    show = {
        "model": _model, "run": _run, "checkpoint": _checkpoint, "pickle": _pickle,
        "arrays": _arrays, "safetensors": _arrays, "torch": _torch,
    }[found["kind"]]  # fmt: skip
    print("\n".join(show(found)))


def _model(found: dict[str, Any]) -> list[str]:
    ours = found["class"] is not None
    lines = [
        _line("file", found["path"]),
        _line("class", found["class"] or "unknown: not saved by rlzoo"),
        _line("policy", found["policy"]),
        _line("observations", found["observation_space"]),
        _line("actions", found["action_space"]),
        _line("written by", _pairs(found["versions"]) or "unknown"),
        _line("counters", _pairs({n.strip("_"): v for n, v in found["counters"].items()})),
        _line("loads", "without unpickling" if ours else "only by unpickling: --trust"),
    ]
    if found["left_out"]:
        lines.append(_line("left out", ", ".join(map(str, found["left_out"]))))
    settings = [(name, repr(value)) for name, value in found["settings"].items()]
    if settings:
        lines += _table(("setting", "value"), settings)
    lines += _sizes("member", found["members"])
    note = "not read by rlzoo" if ours else "what unpickling them would import"
    lines += _imports(("pickle", note), found["pickles"])
    return lines + _imports(("weights", "imports, read in torch's safe mode"), found["weights"])


def _run(found: dict[str, Any]) -> list[str]:
    lines = [_line("run", found["path"])]
    names = ("status", "agent", "env", "preset", "seed", "device", "dataset", "command")
    lines += [_line(name, found[name]) for name in names]
    final = found["final"]
    if isinstance(final, dict):
        lines.append(_line("final", _pairs(final)))
    steps, seconds = found["total_timesteps"], found["wall_seconds"]
    if steps is not None:
        lines.append(_line("trained", f"{steps} steps in {seconds} s"))
    lines.append(_line("written by", _pairs(found["versions"]) or "unknown"))
    if found["problem"]:
        lines.append(_line("PROBLEM", found["problem"]))
    rows = [(name, _text(step), _number(size)) for name, step, size in found["checkpoints"]]
    if rows:
        lines += _table(("checkpoint", "step", "bytes"), rows, ("step", "bytes"))
    lines += _sizes("file of the run", found["files"])
    return lines + (["", *_model(found["model"])] if found["model"] else ["", "No model.zip yet."])


def _checkpoint(found: dict[str, Any]) -> list[str]:
    parts = found["parts"] if isinstance(found["parts"], dict) else {}
    meta = found["meta"] if isinstance(found["meta"], dict) else {}
    return [
        _line("checkpoint", found["path"]),
        _line("state", "verified" if found["verified"] else f"DAMAGED: {found['problem']}"),
        _line("step", found["step"]),
        _line("class", found["class"]),
        _line("written by", _pairs(found["versions"]) or "unknown"),
        *([_line("meta", _pairs(meta))] if meta else []),
        *_table(("part", "kind"), [(str(name), str(kind)) for name, kind in parts.items()]),
        *_sizes("file", found["files"]),
    ]


def _pickle(found: dict[str, Any]) -> list[str]:
    return [
        _line("file", f"{found['path']}, {_number(found['bytes'])} bytes"),
        _line("kind", "pickle: loading it runs code that it names; needs --trust"),
        *_imports(("content", "what unpickling it would import"), {"pickle": found["imports"]}),
    ]


def _arrays(found: dict[str, Any]) -> list[str]:
    rows = [
        (str(name), str(facts["dtype"]), "x".join(map(str, facts["shape"])) or "scalar")
        for name, facts in found["arrays"].items()
    ]
    pickled = {n: facts["imports"] for n, facts in found["arrays"].items() if "imports" in facts}
    lines = [
        _line("file", f"{found['path']}, {_number(found['bytes'])} bytes"),
        _line("kind", "safetensors" if found["kind"] == "safetensors" else "NumPy arrays"),
        _line("loads", "only by unpickling: refused" if pickled else "without unpickling"),
    ]
    if found.get("metadata"):
        lines.append(_line("metadata", _pairs(found["metadata"])))
    lines += _table(("array", "dtype", "shape"), rows, ("shape",))
    return lines + _imports(("pickled array", "what unpickling it would import"), pickled)


def _torch(found: dict[str, Any]) -> list[str]:
    return [
        _line("file", f"{found['path']}, {_number(found['bytes'])} bytes"),
        _line("kind", "torch: tensors and a pickle; rlzoo reads it in torch's safe mode only"),
        *_sizes("member", found["members"]),
        *_imports(("pickle", "what unpickling it would import"), found["pickles"]),
    ]


# --- text -----------------------------------------------------------------------------------------
# Everything that is shown may come from a stranger: nothing reaches the terminal that moves its
# cursor or changes its colours, and no value fills the screen.


def _text(value: Any) -> str:
    text = "-" if value is None or value == "" else str(value)
    clean = _printable(text[: _WIDTH + 1])
    return clean if len(text) <= _WIDTH else f"{clean[:_WIDTH]}…"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _line(name: str, value: Any) -> str:
    return f"{name:<12}  {_text(value)}"


def _pairs(values: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items()) if isinstance(values, dict) else ""


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else _text(value)


def _table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = ()
) -> list[str]:
    from rlzoo.report.tables import text_table

    cells = [tuple(_text(cell) for cell in row) for row in rows]
    return ["", text_table(columns, cells, right=right)]


def _sizes(name: str, sizes: Iterable[Sequence[Any]]) -> list[str]:
    return _table((name, "bytes"), [(n, _number(size)) for n, size in sizes], ("bytes",))


def _imports(columns: tuple[str, str], found: dict[str, list[str]]) -> list[str]:
    from rlzoo.report.tables import text_table

    # Never cut: what matters may have been put behind a hundred harmless names.
    rows = [(_text(n), _printable(", ".join(imports)) or "-") for n, imports in found.items()]
    return ["", text_table(columns, rows)] if rows else []
