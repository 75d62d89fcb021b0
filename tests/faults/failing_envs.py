"""An environment that fails on purpose, as a module that worker processes can import."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Failing(gym.Env[Any, Any]):
    """Fails in the copy that is seeded with ``victim``; the observation is the number of steps.

    Args:
        how: What happens, see ``_fail``.
        call: In ``"step"``, ``"reset"`` or ``"make"``.
        at: At this step of the whole life, or at the reset after so many steps.
        victim: Seed of the copy that fails.
        folder: Every copy that is closed leaves a file ``closed-<seed>`` here.
        length: Steps of an episode.
        size: Size of an observation.
    """

    def __init__(
        self, how: str = "", call: str = "step", at: int = 0, victim: int = -1,
        folder: str = "", length: int = 5, size: int = 2,
    ) -> None:  # fmt: skip
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.how, self.call, self.at, self.victim = how, call, at, victim
        self.folder, self.length, self.steps, self.seed = folder, length, 0, -2
        if call == "make":
            self._fail_as_nth_copy()

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.seed = self.seed if seed is None else seed
        if (self.call, self.at, self.victim) == ("reset", self.steps, self.seed):
            self._fail()
        return self._observation(), {"seed": self.seed}

    def step(self, action: Any) -> Any:
        self.steps += 1
        if (self.call, self.at, self.victim) == ("step", self.steps, self.seed):
            self._fail()
        action *= 0.5  # Bad manners that a log must survive.
        ended = self.steps % self.length == 0
        return self._observation(), float(action[0]), ended, False, {}

    def close(self) -> None:
        if self.folder:
            (Path(self.folder) / f"closed-{self.seed}").touch()
        if self.how == "raise in close" and self.seed == self.victim:
            raise OSError("closed badly")

    def _observation(self) -> Any:
        observation = np.zeros(self.observation_space.shape, np.float32)
        observation[:2] = self.steps, self.np_random.random()
        return observation

    def _fail_as_nth_copy(self) -> None:
        """The copies meet in a folder; the one that comes as number ``at`` fails."""
        for number in itertools.count():
            with contextlib.suppress(FileExistsError):
                (Path(self.folder) / f"made-{number}").touch(exist_ok=False)
                break
        if number == self.at:
            self._fail()

    def _fail(self) -> None:
        if self.how == "raise":
            raise KeyError("no such joint\nsecond line")
        if self.how == "raise nothing":
            raise ArithmeticError
        if self.how == "raise something that no process can send":
            raise LocalError(lambda: None)
        if self.how == "hang":
            time.sleep(3600)
        if self.how == "hang and ignore SIGTERM":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(3600)
        if multiprocessing.parent_process() is None:
            raise AssertionError("This would end the tests.")
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "exit":
            os._exit(7)
        if self.how == "sys.exit":
            sys.exit(3)


class LocalError(Exception):
    """Cannot be pickled because of what it holds."""


gym.register("Failing-v0", Failing)
