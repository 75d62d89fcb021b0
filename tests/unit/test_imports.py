"""Imports go one way, downwards. Every module is parsed; TYPE_CHECKING and lazy imports count."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rlzoo

ROOT = Path(rlzoo.__file__).parent

# Layer -> prefixes that it may import beside itself. rlzoo.errors is open to all.
ALLOWED: dict[str, tuple[str, ...]] = {
    "rlzoo.errors": (),
    "rlzoo.core.arguments": (),
    "rlzoo.core.tasks": (),
    "rlzoo.core": (),
    "rlzoo.agents.registry": (),
    "rlzoo.agents": ("rlzoo.core",),
    "rlzoo.data": ("rlzoo.core",),
    "rlzoo.envs": ("rlzoo.core",),
    "rlzoo.config": ("rlzoo.core.arguments", "rlzoo.core.tasks"),
    "rlzoo.report": ("rlzoo.core.safe_files", "rlzoo.core.tasks"),
    "rlzoo.runs": (
        "rlzoo.agents.registry",
        "rlzoo.core",
        "rlzoo.data",
        "rlzoo.envs",
        "rlzoo.config",
    ),
    "rlzoo.benchmark": (
        "rlzoo.agents.registry",
        "rlzoo.config",
        "rlzoo.core",
        "rlzoo.envs",
        "rlzoo.report",
        "rlzoo.runs",
    ),
    "rlzoo.tune": (
        "rlzoo.agents.registry",
        "rlzoo.config",
        "rlzoo.core",
        "rlzoo.data",
        "rlzoo.envs",
        "rlzoo.report",
        "rlzoo.runs",
    ),
    "rlzoo.cli": (
        "rlzoo.benchmark",
        "rlzoo.config",
        "rlzoo.data",
        "rlzoo.envs",
        "rlzoo.report",
        "rlzoo.runs",
        "rlzoo.tune",
    ),
    "benchmarks": (
        "rlzoo.runs",
        "rlzoo.report",
        "rlzoo.envs",
        "rlzoo.config",
        "rlzoo.core.tasks",
    ),
    # The theory of the paper on tables.
    "benchmarks.bear": ("rlzoo.agents.bear", "rlzoo.report", "rlzoo.runs"),
    # Plans of the agent itself, played in the environment.
    "benchmarks.dae_mpc": (
        "rlzoo.agents.dae_mpc",
        "rlzoo.core",
        "rlzoo.data",
        "rlzoo.envs",
        "rlzoo.report",
        "rlzoo.runs",
    ),
    # A supervised experiment with the agent's idea alone; values of the agent's checkpoints.
    "benchmarks.ibac_sni": (
        "rlzoo.agents.ibac_sni",
        "rlzoo.core",
        "rlzoo.envs",
        "rlzoo.report",
        "rlzoo.runs",
    ),
    # The paper's question, asked with the agent's tables and key matrices.
    "benchmarks.replay_vs_model": (
        "rlzoo.agents.dyna_dqn",
        "rlzoo.config",
        "rlzoo.envs",
        "rlzoo.report",
        "rlzoo.runs",
    ),
    # Times inner loops, which only the parts themselves have.
    "benchmarks.speed": (
        "rlzoo.agents",
        "rlzoo.core",
        "rlzoo.data",
        "rlzoo.envs",
        "rlzoo.runs",
        "rlzoo.config",
    ),
}

# Layers that must stay light: what they may import from outside beside the standard library.
LIGHT: dict[str, frozenset[str]] = {
    "rlzoo.errors": frozenset(),
    "rlzoo.core.arguments": frozenset(),
    "rlzoo.core.tasks": frozenset(),
    "rlzoo.agents.registry": frozenset(),
    "rlzoo.config": frozenset({"yaml", "numpy"}),
}


def under(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def layer_of(module: str) -> str:
    """The most special layer that a module belongs to; one package per agent is a layer."""
    parts = module.split(".")
    if module.startswith("rlzoo.agents.") and module not in ALLOWED:
        return ".".join(parts[:3])
    matching = [layer for layer in ALLOWED if under(module, layer)]
    return max(matching, key=len) if matching else module


def imported(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a module imports; names are kept as ``module.name``."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)


def upward_edges(source: str, module: str, is_package: bool = False) -> list[str]:
    """The imports of rlzoo's own modules that the layer of ``module`` may not have."""
    layer = layer_of(module)
    is_agent = under(layer, "rlzoo.agents") and layer not in ALLOWED
    allowed = ALLOWED["rlzoo.agents" if is_agent else layer]
    bad = []
    for line, target in imported(source, module, is_package):
        target = lazy_home(target)
        if not under(target, "rlzoo") or target in ("rlzoo", "rlzoo.__version__"):
            continue
        fine = ("rlzoo.errors", layer, *allowed)
        if not any(under(target, prefix) for prefix in fine):
            bad.append(f"{module}:{line} -> {target}")
    return bad


def lazy_home(target: str) -> str:
    """``rlzoo.BEAR`` is a lazy name: what counts is the module that has it."""
    name = target.removeprefix("rlzoo.")
    return f"{rlzoo._PUBLIC[name]}.{name}" if name in rlzoo._PUBLIC else target


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path
    for path in sorted((ROOT.parent / "benchmarks").rglob("*.py")):
        yield ".".join(path.relative_to(ROOT.parent).with_suffix("").parts), path


def test_no_module_imports_upwards() -> None:
    bad: list[str] = []
    seen = 0
    for module, path in modules():
        if module == "rlzoo":  # The public names: lazy, and for type checkers only.
            continue
        seen += 1
        bad += upward_edges(path.read_text(), module, path.name == "__init__.py")
    assert seen > 20
    assert not bad, "\n".join(bad)


def test_light_modules_import_nothing_heavy() -> None:
    bad = []
    for module, path in modules():
        allowed = LIGHT.get(layer_of(module))
        if allowed is None:
            continue
        for line, target in imported(path.read_text(), module, path.name == "__init__.py"):
            top = target.split(".")[0]
            if top not in (*sys.stdlib_module_names, *allowed, "rlzoo"):
                bad.append(f"{module}:{line} -> {target}")
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rlzoo.core.device", "from rlzoo.envs import make_vec"),
        ("rlzoo.core.device", "import rlzoo.runs.train"),
        ("rlzoo.core.device", "from rlzoo import make_vec"),
        ("rlzoo.core.device", "from ..envs.make import make_env"),
        ("rlzoo.core.arguments", "from rlzoo.core.device import resolve_device"),
        ("rlzoo.errors", "from rlzoo.core.arguments import Range"),
        ("rlzoo.data.load", "def f():\n    from rlzoo.envs.make import make_env"),
        ("rlzoo.envs.make", "if TYPE_CHECKING:\n    from rlzoo.config import resolve"),
        ("rlzoo.config.resolve", "from rlzoo.agents.registry import AgentSpec"),
        ("rlzoo.config.resolve", "from rlzoo.core.device import resolve_device"),
        ("rlzoo.agents.bear.bear", "from rlzoo.agents.bcq.bcq import BCQ"),
        ("rlzoo.agents.bear.bear", "from rlzoo.agents import registry"),
        ("rlzoo.agents.bear.bear", "from rlzoo.data import load_dataset"),
        ("rlzoo.agents.registry", "from rlzoo.agents.bear import BEAR"),
        ("rlzoo.runs.train", "from rlzoo.agents.bear import BEAR"),
        ("rlzoo.runs.train", "from rlzoo.report import stats"),
        ("rlzoo.report.stats", "from rlzoo.core.seeding import stream"),
        ("rlzoo.report.stats", "from rlzoo.benchmark.suite import Cell"),
        ("rlzoo.runs.train", "from rlzoo.benchmark.suite import Cell"),
        ("rlzoo.benchmark.driver", "from rlzoo.agents.bear import BEAR"),
        ("rlzoo.benchmark.driver", "from rlzoo.cli.console import ConsoleProgress"),
        ("rlzoo.cli.main", "from rlzoo.agents.bear import BEAR"),
        ("benchmarks.mujoco", "from rlzoo.cli.main import app"),
    ],
)
def test_a_planted_upward_edge_is_found(module: str, source: str) -> None:
    assert upward_edges(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rlzoo.core.device", "from rlzoo.errors import RefusedError"),
        ("rlzoo.core.device", "from rlzoo import __version__"),
        ("rlzoo.agents.bear.bear", "from rlzoo.agents.bear.mmd import mmd"),
        ("rlzoo.agents.bear.bear", "from .mmd import mmd"),
        ("rlzoo.config.schema", "from rlzoo.core.arguments import Range"),
        ("rlzoo.runs.train", "from rlzoo.agents.registry import get_agent"),
        ("rlzoo.cli.main", "def f():\n    from rlzoo.runs.train import train"),
    ],
)
def test_a_downward_edge_is_allowed(module: str, source: str) -> None:
    assert upward_edges(source, module) == []
