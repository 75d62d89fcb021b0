"""Collecting transitions: vectorised, repeatable from one seed, resumable after a kill.

``n_envs`` slots fill a quota each, and the result is their concatenation. Every episode is a pure
function of ``(seed, slot, episode)``: the environment is reset with
``stream(seed, "collect", "env", slot, episode)`` and the noise of the actions comes from a
generator seeded by ``stream(seed, "collect", "actions", slot, episode)``. Timing, the number of
workers and interruptions therefore do not change a byte. (What does: other versions of MuJoCo,
NumPy or torch, and with an SB3 model as the policy another kind of processor.)
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import metadata as packages
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from gymnasium import spaces

import rlzoo
from rlzoo.core.seeding import check_seed
from rlzoo.data.goals import (
    FINAL_SUCCESSES,
    LAYOUT,
    SUCCESSES,
    FlatEnv,
    FlatPolicy,
    Layout,
    flat_space,
    goal_layout,
)
from rlzoo.data.policies import BatchPolicy, NoisyPolicy, as_batch_policy, check_action_space
from rlzoo.data.schema import schema_spaces
from rlzoo.data.shards import Columns, ShardFolder, locked, prepare
from rlzoo.data.slots import (
    Job,
    MakeEnv,
    Settings,
    Slot,
    allocate,
    quiet_process,
    run_group,
    storage,
)
from rlzoo.data.transitions import Transitions
from rlzoo.data.workers import run_in_workers
from rlzoo.errors import FailedError, RefusedError

PROGRESS_SECONDS = 0.1

Progress = Callable[[int, int], None]


def collect(
    make_env: MakeEnv,
    policy: Any,
    size: int,
    seed: int,
    n_envs: int = 16,
    deterministic: bool = False,
    epsilon: float = 0.0,
    gaussian_noise: float = 0.0,
    workers: int = 1,
    work_dir: str | Path | None = None,
    progress: Progress | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Transitions:
    """Return exactly ``size`` transitions of a policy.

    Args:
        make_env: Makes one Gymnasium environment; picklable (by cloudpickle) if ``workers > 1``.
        policy: ``"random"``, a shipped behaviour, an SB3 model, or anything with ``predict``.
        size: Number of transitions, >= 1.
        seed: Of every stream, 0 to 2**32 - 1.
        n_envs: Number of slots; part of what makes the data, unlike ``workers``.
        deterministic: Take the policy's deterministic actions.
        epsilon: Probability of a uniform action instead of the policy's, in [0, 1].
        gaussian_noise: Standard deviation of noise on actions scaled to [-1, 1], >= 0.
        workers: Processes; each takes groups of 8 slots. A script that asks for more than one
            needs ``if __name__ == "__main__":``.
        work_dir: Finished episodes are kept here; the same call goes on after a kill. The caller
            deletes it (:func:`rlzoo.data.shards.discard`) once the result is safe.
        progress: Called with ``(rows so far, size)`` about ten times a second.
        metadata: Added to the metadata of the result.

    Returns:
        The transitions. The last episode of a slot may be cut by the quota: it is truncated, keeps
        its true next observation and is listed in ``metadata["cut_episodes"]``.

    Raises:
        RefusedError: If a value is out of range, if the policy does not fit the environment, or if
            ``work_dir`` holds part of another collection or is in use.
        FailedError: If the policy returns NaN or a worker dies. What was finished is in
            ``work_dir``.
    """
    settings = _settings(size, seed, n_envs, deterministic, epsilon, gaussian_noise)
    if workers < 1:
        raise RefusedError(f"workers={workers} is out of range.", "Allowed: at least 1.")
    with contextlib.ExitStack() as stack:
        probe = make_env()
        stack.callback(probe.close)
        layout = goal_layout(probe.observation_space)
        policy = _fitting(policy, probe, settings, layout)
        facts = _facts(probe, policy, settings)
        folder = Path(work_dir) if work_dir is not None else None
        if folder is not None:
            stack.enter_context(locked(folder))
            prepare(folder, facts)
        elif workers > 1:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="rlzoo-collect-")))
        if layout is not None:
            make_env = FlatEnv(make_env)
        job = Job(make_env, policy, settings, *_stored_spaces(probe), folder)
        stack.enter_context(quiet_process())
        slots = _fill(job, workers, _throttled(progress, size))
    goals = {} if layout is None else {LAYOUT: layout}
    return _assemble(job, slots, {**facts, **goals, **(metadata or {})})


def _settings(
    size: Any, seed: Any, n_envs: Any, deterministic: bool, epsilon: float, gaussian_noise: float
) -> Settings:
    for name, value in (("size", size), ("n_envs", n_envs)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise RefusedError(f"{name}={value!r} is out of range.", "Allowed: an integer >= 1.")
    return Settings(
        size=int(size),
        seed=check_seed(seed),
        n_envs=min(int(n_envs), int(size)),
        deterministic=bool(deterministic),
        epsilon=float(epsilon),
        gaussian_noise=float(gaussian_noise),
    )


def _fitting(policy: Any, env: Any, settings: Settings, layout: Layout | None) -> BatchPolicy:
    """Return the policy with its noise on top, checked against the environment."""
    if layout is None:
        storage(env.observation_space)
    check_action_space(env.action_space)
    for name in ("observation_space", "action_space"):
        theirs, ours = getattr(policy, name, None), getattr(env, name)
        if isinstance(theirs, spaces.Space) and not _same_kind(theirs, ours):
            raise RefusedError(
                f"The policy was made for another {name.replace('_', ' ')}.",
                f"Policy: {theirs}; environment: {ours}.",
            )
    batch = as_batch_policy(policy, env.action_space)
    if layout is not None:
        batch = FlatPolicy(batch, layout)
    # made even without noise, for its checks of the ranges
    noisy = NoisyPolicy(batch, env.action_space, settings.epsilon, settings.gaussian_noise)
    return noisy if settings.epsilon or settings.gaussian_noise else batch


def _stored_spaces(env: Any) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """Return the spaces of what is stored: floats are kept as float32 whatever the environment."""
    if goal_layout(env.observation_space) is not None:
        return schema_spaces(flat_space(env.observation_space), env.action_space, str(env))
    if not isinstance(env.observation_space, spaces.Box):
        return env.observation_space, env.action_space
    return schema_spaces(env.observation_space, env.action_space, str(env))


def _same_kind(a: spaces.Space[Any], b: spaces.Space[Any]) -> bool:
    if isinstance(a, spaces.Box) and isinstance(b, spaces.Box) and len(a.shape) == 3:
        return sorted(a.shape) == sorted(b.shape)  # SB3 stores pixels channel first
    if isinstance(a, spaces.Discrete) and isinstance(b, spaces.Discrete):
        return bool(a.n == b.n)
    return type(a) is type(b) and a.shape == b.shape


def versions() -> dict[str, str]:
    """Return the versions of what decides about the bytes of a collection."""
    names = ("numpy", "torch", "gymnasium", "mujoco", "stable-baselines3")
    found = {"python": platform.python_version(), "rlzoo": rlzoo.__version__}
    for name in names:
        with contextlib.suppress(packages.PackageNotFoundError):
            found[name.replace("-", "_")] = packages.version(name)
    return found


def _facts(env: Any, policy: BatchPolicy, settings: Settings) -> dict[str, Any]:
    """Return the metadata of the collection, which is also its identity on disk."""
    spec = env.spec
    return {
        "env_id": spec.id if spec is not None else None,
        "env": f"{env} {dict(spec.kwargs) if spec is not None else ''}".strip(),
        "policy": policy.describe(),
        "collection": asdict(settings),
        "versions": versions(),
    }


def _throttled(progress: Progress | None, size: int) -> Callable[[int], None]:
    """Return what adds to the number of rows and tells the caller now and then."""
    done, told = 0, 0.0

    def add(rows: int) -> None:
        nonlocal done, told
        done += rows
        if progress and (done == size or time.monotonic() - told >= PROGRESS_SECONDS):
            told = time.monotonic()
            progress(done, size)

    return add


def _fill(job: Job, workers: int, add: Callable[[int], None]) -> tuple[Columns, list[Slot]]:
    """Return the arrays and slots of the whole collection, filled."""
    columns, slots = allocate(job, range(job.settings.n_envs))
    groups = [[slots[i] for i in group] for group in job.settings.groups()]
    stores = [ShardFolder(job.folder, g) if job.folder else None for g in range(len(groups))]
    for group, store in zip(groups, stores, strict=True):
        _restore(group, store)
    add(sum(slot.rows for slot in slots))
    open_groups = [g for g, group in enumerate(groups) if not all(slot.full for slot in group)]
    if workers > 1 and job.folder is not None:
        run_in_workers(job, open_groups, workers, add)
        for g in open_groups:
            _restore(groups[g], stores[g])
            if not all(slot.full for slot in groups[g]):
                raise FailedError(f"Episodes of a worker are missing in {job.folder}.")
    else:
        for g in open_groups:
            run_group(job, groups[g], stores[g], add)
    return columns, slots


def _restore(slots: list[Slot], store: ShardFolder | None) -> None:
    if store is not None:
        episodes = store.read()
        for slot in slots:
            slot.restore(episodes)


def _assemble(
    job: Job, filled: tuple[Columns, list[Slot]], metadata: dict[str, Any]
) -> Transitions:
    columns, slots = filled
    lengths = [length for slot in slots for length in slot.lengths]
    last = np.cumsum([len(slot.lengths) for slot in slots]) - 1
    cut = [int(i) for i, slot in zip(last, slots, strict=True) if slot.cut]
    outcomes = [success for slot in slots for success in slot.successes]
    said = [success for success in outcomes if success is not None]
    if len(said) == len(outcomes):
        any_time, final = ([bool(s[i]) for s in said] for i in (0, 1))
        metadata = {**metadata, SUCCESSES: any_time, FINAL_SUCCESSES: final}
    return Transitions(
        **columns,
        episode_starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]),
        observation_space=job.observation_space,
        action_space=job.action_space,
        metadata={**metadata, "cut_episodes": cut},
    )
