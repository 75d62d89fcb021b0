"""Where a result comes from: versions, commit, machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import rlzoo


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
