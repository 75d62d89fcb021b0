"""The slots of a collection: one sequence of episodes each, run in groups that share a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from rlzoo.core.seeding import get_states, set_states, stream
from rlzoo.data.policies import BatchPolicy, Step
from rlzoo.data.shards import Columns, Episode, ShardFolder
from rlzoo.errors import FailedError, RefusedError

VERSION = 1
"""Raised whenever the same settings begin to give other bytes."""

GROUP = 8
"""Slots that share one batch of the policy, and the unit of work of a worker. Part of the recipe:
a batch of another size may round differently."""

NOISE_STEPS = 64  # steps whose noise is drawn at once; part of what VERSION stands for
MakeEnv = Callable[[], Any]


@dataclass(frozen=True)
class Settings:
    """What, besides policy and environment, decides about the bytes of a collection."""

    size: int
    seed: int
    n_envs: int
    deterministic: bool
    epsilon: float
    gaussian_noise: float
    collector: int = VERSION

    def bounds(self) -> NDArray[np.int64]:
        """Return the first row of every slot and the end, ``[n_envs + 1]``."""
        quotas = np.full(self.n_envs, self.size // self.n_envs, np.int64)
        quotas[: self.size % self.n_envs] += 1
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(quotas)])

    def groups(self) -> list[range]:
        """Return the slots of every group."""
        return [range(a, min(a + GROUP, self.n_envs)) for a in range(0, self.n_envs, GROUP)]


@dataclass(frozen=True)
class Job:
    """All that a group of slots needs; sent to workers as it is."""

    make_env: MakeEnv
    policy: BatchPolicy
    settings: Settings
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    folder: Path | None


def storage(space: spaces.Space[Any]) -> tuple[tuple[int, ...], type[Any]]:
    """Return shape and dtype in which observations or actions are stored."""
    if isinstance(space, spaces.Discrete):
        return (), np.int64
    if isinstance(space, spaces.Box):
        return space.shape, np.uint8 if space.dtype == np.uint8 else np.float32
    raise RefusedError(
        f"Cannot store observations of {type(space).__name__}.",
        "Allowed: Box and Discrete.",
        "Flatten them with gymnasium.wrappers.FlattenObservation.",
    )


@contextlib.contextmanager
def quiet_process() -> Iterator[None]:
    """One torch thread, exact denormals, and the global generators as they were before.

    Small batches are faster on one thread, and neither the number of threads nor a caller's
    flush-to-zero may change the result.
    """
    threads, states = torch.get_num_threads(), get_states()
    tiny = np.full(1, 1e-310)
    flushed = bool((tiny * np.ones(1))[0] == 0)
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(flushed)
        set_states(states)


class Slot:
    """One sequence of episodes: an environment, its noise, and the rows it fills.

    Args:
        job: The collection.
        index: Number of the slot.
        columns: Arrays of exactly the slot's quota.
    """

    def __init__(self, job: Job, index: int, columns: Columns) -> None:
        self.job, self.index, self.columns = job, index, columns
        self.quota = len(columns["rewards"])
        self.lengths: list[int] = []
        self.successes: list[tuple[bool, bool] | None] = []
        self.cut = False
        self.rows = 0

    @property
    def full(self) -> bool:
        """Whether the quota is reached."""
        return self.rows == self.quota

    def restore(self, episodes: Mapping[tuple[int, int], Episode]) -> None:
        """Take the slot's finished episodes, up to the first that is missing."""
        while not self.full and (self.index, len(self.lengths)) in episodes:
            episode = episodes[self.index, len(self.lengths)]
            length = len(episode.columns["rewards"])
            for name, values in self.columns.items():
                values[self.rows : self.rows + length] = episode.columns[name]
            self.rows, self.cut = self.rows + length, episode.cut
            self.lengths.append(length)
            self.successes.append(episode.success)

    def begin(self, env: Any) -> Any:
        """Reset the environment and the noise, and return the first observation."""
        path = (self.index, len(self.lengths))
        seed = self.job.settings.seed
        bits = np.random.PCG64(stream(seed, "collect", "actions", *path))
        self._rng, self._step, self._start = np.random.Generator(bits), 0, self.rows
        self._success: tuple[bool, bool] | None = None
        observation, _ = env.reset(seed=stream(seed, "collect", "env", *path))
        return observation

    def draw(self, normals: NDArray[np.float64], uniforms: NDArray[np.float64]) -> None:
        """Write the noise of the next step into the slot's row of the batch."""
        row = self._step % NOISE_STEPS
        if row == 0:
            self._normals = self._rng.standard_normal((NOISE_STEPS, len(normals)))
            self._uniforms = self._rng.random((NOISE_STEPS, len(uniforms)))
        normals[:], uniforms[:] = self._normals[row], self._uniforms[row]
        self._step += 1

    def step(self, env: Any, action: Any) -> Any:
        """Step the environment; a failure says where it happened."""
        try:
            return env.step(action)
        except Exception as error:  # environments may raise anything
            raise FailedError(
                f"The environment of slot {self.index} failed at step {self.rows - self._start} of "
                f"episode {len(self.lengths)}: {error!r}",
                f"Seed {self.job.settings.seed}, action {np.asarray(action).tolist()}.",
            ) from error

    def record(self, observation: Any, action: Any, result: tuple[Any, ...]) -> bool:
        """Store one step; return whether the episode is over, by itself or by the quota."""
        following, reward, terminated, truncated, info = result
        self._note_success(info)
        columns, row = self.columns, self.rows
        self.rows += 1
        ended = bool(terminated or truncated)
        self.cut = not ended and self.full
        columns["observations"][row] = observation
        columns["actions"][row] = action
        columns["rewards"][row] = reward
        columns["terminations"][row] = terminated
        columns["truncations"][row] = (truncated or self.cut) and not terminated
        columns["next_observations"][row] = following
        return ended or self.cut

    def _note_success(self, info: Mapping[str, Any]) -> None:
        """Keep what the environment says of success: at any step, and at the last one."""
        said = info.get("is_success", info.get("success"))  # the second in PointMaze
        if said is not None:
            before = self._success is not None and self._success[0]
            self._success = (before or bool(said), bool(said))

    def finish(self) -> Episode:
        """Close the episode and return it."""
        self.lengths.append(self.rows - self._start)
        self.successes.append(self._success)
        rows = {name: values[self._start : self.rows] for name, values in self.columns.items()}
        return Episode(self.index, len(self.lengths) - 1, self.cut, rows, self._success)


def allocate(job: Job, slots: range) -> tuple[Columns, list[Slot]]:
    """Return arrays for some neighbouring slots, and the slots that fill them in place."""
    bounds = job.settings.bounds() - job.settings.bounds()[slots.start]
    rows = int(bounds[slots.stop])
    shape, dtype = storage(job.observation_space)
    action_shape, action_dtype = storage(job.action_space)
    columns: Columns = {
        "observations": np.zeros((rows, *shape), dtype),
        "actions": np.zeros((rows, *action_shape), action_dtype),
        "rewards": np.zeros(rows, np.float32),
        "terminations": np.zeros(rows, np.bool_),
        "truncations": np.zeros(rows, np.bool_),
        "next_observations": np.zeros((rows, *shape), dtype),
    }
    made = []
    for index in slots:
        part = slice(int(bounds[index]), int(bounds[index + 1]))
        made.append(Slot(job, index, {name: values[part] for name, values in columns.items()}))
    return columns, made


def run_group(job: Job, slots: list[Slot], store: ShardFolder | None, add: Any) -> None:
    """Fill the slots of one group.

    Args:
        job: The collection.
        slots: All slots of the group, full ones included: they keep their row of the batch.
        store: Takes finished episodes.
        add: Called with the number of rows that were added.
    """
    envs = {slot.index: job.make_env() for slot in slots if not slot.full}
    try:
        _run(job, slots, envs, store, add)
    finally:
        if store is not None:
            store.flush()
        for env in envs.values():
            env.close()


def _run(
    job: Job, slots: list[Slot], envs: dict[int, Any], store: ShardFolder | None, add: Any
) -> None:
    n, policy = len(slots), job.policy
    shape, dtype = storage(job.observation_space)
    observations = np.zeros((n, *shape), dtype)
    step = Step(
        normals=np.zeros((n, policy.normals)),
        uniforms=np.zeros((n, policy.uniforms)),
        starts=np.ones(n, np.bool_),
        active=np.array([not slot.full for slot in slots]),
    )
    live = [(row, slot, envs[slot.index]) for row, slot in enumerate(slots) if not slot.full]
    for row, slot, env in live:
        observations[row] = slot.begin(env)
    while live:
        for row, slot, _ in live:
            slot.draw(step.normals[row], step.uniforms[row])
        raw = policy.act(observations, step, job.settings.deterministic)
        actions = _conform(raw, job.action_space, step)
        step.starts[:] = False
        for row, slot, env in live:
            result = slot.step(env, actions[row])
            over = slot.record(observations[row], actions[row], result)
            if not over:
                observations[row] = result[0]
                continue
            episode = slot.finish()
            if store is not None:
                store.add(episode)
            step.active[row] = not slot.full
            if not slot.full:
                observations[row] = slot.begin(env)
                step.starts[row] = True
        add(len(live))
        if step.active.sum() < len(live):
            live = [entry for entry in live if not entry[1].full]


def _conform(actions: NDArray[Any], space: spaces.Space[Any], step: Step) -> NDArray[Any]:
    """Return the actions as they are stored and as the environment gets them."""
    if isinstance(space, spaces.Discrete):
        return actions.astype(np.int64)
    actions = actions.astype(np.float32)
    if not np.isfinite(actions).all() and not np.isfinite(actions[step.active]).all():
        raise FailedError(
            "The policy returned an action that is NaN or infinite.",
            todo="Check its weights, and that it was trained on these observations.",
        )
    if isinstance(space, spaces.Box):
        np.clip(actions, space.low, space.high, out=actions)
    return actions
