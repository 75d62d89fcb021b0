"""``rlzoo doctor``: what works on this machine, and what does not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from minari.storage import get_dataset_path

from rlzoo.config import known_presets
from rlzoo.core.checkpoint import library_versions
from rlzoo.core.device import available_devices, configure_cpu
from rlzoo.data import minari_io
from rlzoo.data.behaviours import available, load_behaviour
from rlzoo.envs import compat, make_env, make_vec
from rlzoo.envs.procgen import check_procgen
from rlzoo.runs import AGENTS

# One environment per family, and the module that it needs.
FAMILIES: tuple[tuple[str, str, str], ...] = (
    ("classic control", "gymnasium", "CartPole-v1"),
    ("MuJoCo", "mujoco", "Hopper-v4"),
    ("MuJoCo", "mujoco", "HalfCheetah-v4"),
    ("Box2D", "Box2D", "CarRacing-v3"),
    ("Atari", "ale_py", "ALE/Pong-v5"),
    ("MiniGrid", "minigrid", "MiniGrid-Empty-5x5-v0"),
    ("goals", "gymnasium_robotics", "PointMaze_UMaze-v3"),
)


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Args:
        name: What was looked at.
        detail: What was found; one line.
        ok: False if it is broken.
    """

    name: str
    detail: str
    ok: bool = True


def examine() -> Iterator[Check]:
    """Yield one check after the other."""
    versions = library_versions()
    yield Check("versions", ", ".join(f"{name} {version}" for name, version in versions.items()))
    yield Check("devices", ", ".join(_device_name(name) for name in available_devices()))
    yield _guarded("threads", _threads)
    yield from _extras()
    yield Check("MUJOCO_GL", compat.choose_gl() or "unset (a display is needed for rendering)")
    for family, module, env_id in FAMILIES:
        if importlib.util.find_spec(module) is not None:
            yield _guarded(f"{family}: {env_id}", partial(_step, env_id))
    if importlib.util.find_spec("envpool") is not None:
        yield _guarded("Procgen: CoinRun", _procgen)
        if importlib.util.find_spec("ale_py") is not None:
            yield _guarded("Atari in envpool", _atari_pool)
    yield _guarded("agents", _agents)
    yield _guarded("behaviours", _behaviours)
    yield _guarded("Minari store", _store)


def _guarded(name: str, find: Callable[[], str]) -> Check:
    try:
        return Check(name, find())
    except Exception as error:  # whatever is broken is what the report is for
        text = " ".join(str(error).split())[:400]
        return Check(name, f"{type(error).__name__}: {text}", ok=False)


def _device_name(name: str) -> str:
    return f"{name} ({torch.cuda.get_device_name(name)})" if name != "cpu" else name


def _threads() -> str:
    asked = os.environ.get("OMP_NUM_THREADS")
    return (
        f"{configure_cpu()} for torch, {os.cpu_count()} cores, OMP_NUM_THREADS {asked or 'unset'}"
    )


def _extras() -> Iterator[Check]:
    """Yield which optional groups of packages are complete, as the installed rlzoo names them."""
    try:
        extras = importlib.metadata.metadata("rlzoo").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("extras", "unknown: rlzoo runs from its source and is not installed")
        return
    absent = [extra for extra in extras if _lacking("rlzoo", extra)]
    yield Check("extras installed", ", ".join(e for e in extras if e not in absent) or "none")
    if absent:
        yield Check("extras absent", f'{", ".join(absent)} (pip install "rlzoo[{absent[0]}]")')


def _lacking(distribution: str, extra: str) -> list[str]:
    """Return the packages of an extra that are not installed."""
    lacking = []
    for requirement in importlib.metadata.requires(distribution) or []:
        named = re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?", requirement)
        if named is None or not re.search(rf"extra == ['\"]{extra}['\"]", requirement):
            continue
        if not _installed(named[1]):
            lacking.append(named[1])
        elif named[2]:
            lacking += [name for inner in named[2].split(",") for name in _lacking(named[1], inner)]
    return lacking


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _step(env_id: str) -> str:
    env = make_env(env_id)
    try:
        env.action_space.seed(0)
        env.reset(seed=0)
        env.step(env.action_space.sample())
    finally:
        env.close()
    return "one step works"


def _procgen() -> str:
    return f"{check_procgen()}; {_step('CoinRun')}"


def _atari_pool() -> str:
    vec = make_vec("ALE/Pong-v5", backend="envpool")
    try:
        vec.reset()
        vec.step(np.zeros(1, np.int64))
    finally:
        vec.close()
    return "one step works"


def _agents() -> str:
    presets = [f"{name} ({', '.join(known_presets(spec))})" for name, spec in AGENTS.items()]
    return ", ".join(presets)


def _behaviours() -> str:
    found = available()
    for env_id, level in found:
        load_behaviour(env_id, level)  # compares the sum of its weights
    return ", ".join(f"{env_id} {level}" for env_id, level in found) or "none ship"


def _store() -> str:
    root = get_dataset_path()
    with tempfile.TemporaryFile(dir=root):
        pass
    return f"{root} is writable, {len(minari_io.local_ids())} data sets"
