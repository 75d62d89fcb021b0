"""Where a result comes from: versions, commit, machine."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import rlzoo
from rlzoo.agents.registry import AgentSpec
from rlzoo.config.resolve import ResolvedConfig


def commit() -> str | None:
    """Return the git commit of the checkout that rlzoo runs from, ``+dirty`` if it was changed.

    None when rlzoo was installed without its history.
    """
    folder = Path(rlzoo.__file__).parent
    head = _git(folder, "rev-parse", "--short=12", "HEAD")
    # A virtual environment inside of somebody else's repository is not our history.
    tracked = _git(folder, "ls-files", "--error-unmatch", "__init__.py")
    if head is None or tracked is None:
        return None
    return head + ("+dirty" if _git(folder, "status", "--porcelain", "--", ".") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def code_digest(spec: AgentSpec) -> str:
    """Return 16 hexadecimal digits that change with the code that trains an agent.

    That is :mod:`rlzoo.core` and the agent's own package; other libraries have versions.
    """
    folders = [Path(rlzoo.__file__).parent / "core"]
    module = spec.class_path.partition(":")[0]
    if module.startswith("rlzoo."):
        found = importlib.util.find_spec(module)
        folders += [Path(place) for place in (found and found.submodule_search_locations) or ()]
    total = hashlib.sha256()
    for path in sorted(path for folder in folders for path in folder.glob("*.py")):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()[:16]


def plain_settings(config: ResolvedConfig) -> dict[str, Any]:
    """Return the settings of a run as plain JSON by ``agent.<name>`` and ``run.<name>``."""
    sections = {"agent": config.agent, "run": config.run}
    return {
        f"{section}.{name}": json.loads(json.dumps(entry.value, default=repr))
        for section, values in sections.items()
        for name, entry in values.items()
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Return processor, cores, threads, system and, on CUDA, the name of the GPU."""
    facts: dict[str, Any] = {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
