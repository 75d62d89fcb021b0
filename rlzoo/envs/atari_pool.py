"""Atari through envpool: the protocol of :mod:`rlzoo.envs.atari`, stepped in C++ threads.

It pays where there are cores for threads; on one core it is no faster than ale-py, because both
spend their time in the same emulator (``benchmarks/speed/envs.py``).

After the same number of no-ops the two are equal to the bit: frames, scores, lives, ends, also
across lost lives (measured over eight games, and a test). What differs:

- The number of no-ops is drawn from the same numbers, 1 to 30, by another generator, so one seed
  is another game in each.
- The very last frame of a game, after which nothing is predicted: the game ends before the four
  frames are over, and each has other screens left in its buffer then.
- Games are cut after 27,000 steps without the no-ops at the start: up to 8 steps later.

envpool has life loss, clipping, FIRE and stacks of frames of its own. They are not used: it takes
up to 30 no-ops after a lost life and begins a stack with four equal frames.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from rlzoo.core.arguments import AT_LEAST_ONE, check_range
from rlzoo.envs.atari import MAX_FRAMES, check_game
from rlzoo.envs.envpool_vec import Batch, EnvpoolVecEnv
from rlzoo.errors import RefusedError, did_you_mean

HEIGHT = 210
"""Lines of the screen that envpool takes for granted."""

_EMULATOR = ("repeat_action_probability", "full_action_space", "mode", "difficulty")


class AtariVecEnv(EnvpoolVecEnv):
    """Copies of a game.

    Args:
        task: envpool's name of the game.
        n_envs: Number of copies.
        frame_stack: See :func:`rlzoo.envs.atari.make_atari`, as the next six.
        frame_skip: Frames per step.
        noop_max: Most no-ops at the start of a game, at least 1.
        screen_size: Height and width.
        life_loss: Whether a lost life ends an episode.
        clip_rewards: Whether rewards are clipped.
        max_episode_steps: Steps after which a game is truncated, besides the frames.
        num_threads: See :class:`~rlzoo.envs.envpool_vec.EnvpoolVecEnv`.
        monitor: Record scores of whole games, unclipped.
        emulator: ``repeat_action_probability``, ``full_action_space``, ``mode``, ``difficulty``.
    """

    def __init__(
        self,
        task: str,
        n_envs: int = 1,
        *,
        frame_stack: int = 4,
        frame_skip: int = 4,
        noop_max: int = 30,
        screen_size: int = 84,
        life_loss: bool = False,
        clip_rewards: bool = False,
        max_episode_steps: int | None = None,
        num_threads: int | None = None,
        monitor: bool = True,
        **emulator: Any,
    ) -> None:
        check_range("max_episode_steps", max_episode_steps, AT_LEAST_ONE)
        super().__init__(
            task,
            n_envs,
            num_threads=num_threads,
            monitor=monitor,
            info_keys=("lives",),
            frame_skip=frame_skip,
            noop_max=noop_max,
            img_height=screen_size,
            img_width=screen_size,
            stack_num=1,
            use_fire_reset=False,
            max_episode_steps=MAX_FRAMES // frame_skip,
            step_limit=max_episode_steps,
            **{"repeat_action_probability": 0.0, **emulator},
        )
        self.life_loss, self.clip_rewards = life_loss, clip_rewards
        shape = (frame_stack, screen_size, screen_size)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self._stacks = np.zeros((n_envs, *shape), np.uint8)
        self._lives = np.zeros(n_envs, np.int64)

    def _receive(self) -> Batch:
        batch = super()._receive()
        batch.terminated = batch.info["terminated"].astype(bool)
        self._push(slice(None), batch.observations)
        batch.observations = self._stacks.copy()  # the agent may keep it
        return batch

    def _reward(self, batch: Batch) -> npt.NDArray[np.float32]:
        return np.clip(batch.rewards, -1, 1) if self.clip_rewards else batch.rewards

    def _ends(self, batch: Batch, over: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        lives = batch.info["lives"]
        # As SB3: some games go on for a few frames with no life left.
        lost = (lives > 0) & (lives < self._lives) & ~over
        self._lives[:] = lives
        return over | lost if self.life_loss else over

    def _after_reset(self, observations: Any, info: dict[str, Any]) -> Any:
        self._stacks[:] = 0
        self._push(slice(None), observations)
        self._lives[:] = info["lives"]
        return self._stacks.copy()

    def _restart(
        self, ids: npt.NDArray[np.int32], batch: Batch, over: npt.NDArray[np.bool_]
    ) -> None:
        new, lost = ids[over[ids]], ids[~over[ids]]
        if len(lost):
            new = np.concatenate([new, self._next_life(lost)])
        if len(new):
            frames, info = self._pool.reset(new)
            self._stacks[new] = 0
            self._push(new, frames)
            self._note(new, info)
        batch.observations[ids] = self._stacks[ids]

    def _next_life(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Take the no-op with which a life begins; return the copies whose game it ended."""
        noops = np.zeros(len(ids), np.int32)
        frames, rewards, _, truncated, info = self._pool.step(noops, ids)
        self._push(ids, frames)
        self._note(ids, info)
        if self.monitor:
            self._scores.add(rewards, ids)
        over: npt.NDArray[np.int32] = ids[info["terminated"].astype(bool) | truncated]
        for index in over:
            self._scores.finish(index)
        return over

    def _note(self, ids: npt.NDArray[np.int32], info: dict[str, Any]) -> None:
        self._lives[ids] = info["lives"]
        for index, row in zip(ids.tolist(), self._rows(info), strict=True):
            self.reset_infos[index] = row

    def _push(self, ids: Any, frames: npt.NDArray[np.uint8]) -> None:
        """Put a frame ``[n, 1, size, size]`` behind the others, and drop the oldest one."""
        self._stacks[ids, :-1] = self._stacks[ids, 1:]
        self._stacks[ids, -1] = frames[:, 0]


def make_atari_pool(
    env_id: str,
    spec: EnvSpec,
    n_envs: int,
    monitor: bool,
    training: bool = False,
    *,
    fire: bool = False,
    life_loss: bool | None = None,
    clip_rewards: bool | None = None,
    **arguments: Any,
) -> AtariVecEnv:
    """Make a vector of games.

    Args:
        env_id: As for :func:`rlzoo.envs.atari.make_atari`.
        spec: Its specification.
        n_envs: Number of copies.
        monitor: Record scores of whole games.
        training: End episodes with a lost life, and clip rewards.
        fire: Must be false.
        life_loss: Whether a lost life ends an episode; None follows ``training``.
        clip_rewards: Whether rewards are clipped; None follows ``training``.
        arguments: Of :class:`AtariVecEnv`.

    Raises:
        RefusedError: As ``make_atari``; or if envpool is missing, does not have the game, or draws
            it wrongly because its screen has another height.
    """
    check_game(env_id, spec, arguments)
    if fire:
        raise RefusedError("fire=True needs backend='gymnasium'.", "The 100k protocol has no FIRE.")
    check_range("noop_max", arguments.get("noop_max", 30), AT_LEAST_ONE)
    names = ("frame_stack", "frame_skip", "noop_max", "screen_size", "max_episode_steps",
             "num_threads", *_EMULATOR)  # fmt: skip
    for name in arguments:
        if name not in names:
            raise RefusedError(
                f"{env_id!r} in envpool has no argument {name!r}. "
                f"{did_you_mean(name, names)}".rstrip(),
                f"Allowed: life_loss, clip_rewards, {', '.join(names)}.",
                "backend='gymnasium' has more.",
            )
    _check_screen(env_id, spec.kwargs["game"])
    name = "".join(part.capitalize() for part in spec.kwargs["game"].split("_"))
    return AtariVecEnv(
        f"{name}-v5",
        n_envs,
        monitor=monitor,
        life_loss=training if life_loss is None else life_loss,
        clip_rewards=training if clip_rewards is None else clip_rewards,
        **arguments,
    )


def _check_screen(env_id: str, game: str) -> None:
    """Refuse a game whose screen has another height: envpool would read past it."""
    ale_py, roms = importlib.import_module("ale_py"), importlib.import_module("ale_py.roms")
    ale = ale_py.ALEInterface()
    ale.loadROM(roms.get_rom_path(game))
    height = ale.getScreenDims()[0]
    if height != HEIGHT:
        raise RefusedError(
            f"{env_id!r} has {height} lines, and envpool takes {HEIGHT} for granted.",
            todo="Leave backend='envpool' out.",
        )
