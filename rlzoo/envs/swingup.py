"""Cart-pole swing-up for Gymnasium: ``rlzoo/CartPoleSwingUp-v0`` and ``…SwingUpHard-v0``.

Equations, rewards and starts are in :mod:`rlzoo.core.swingup`. Both are registered by
``import rlzoo.envs``. Chance comes from the seeded generator of the environment only, so that seed
and actions lead to the same state again.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from rlzoo.core.simulator_vec import SimulatorVecEnv
from rlzoo.core.swingup import DT, LENGTH, LIMIT, STEPS, CartPoleSwingUp, accelerations

ENTRY_POINT = "rlzoo.envs.swingup:CartPoleSwingUpEnv"
_WIDTH, _HEIGHT, _SCALE = 600, 400, 100  # pixels, and pixels per metre
_SKY, _TRACK, _CART, _POLE, _END = (
    (250, 250, 248), (150, 150, 155), (50, 90, 160), (200, 90, 40), (190, 40, 40)
)  # fmt: skip


class CartPoleSwingUpEnv(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Swing up a pole that hangs from a cart; see :class:`rlzoo.core.swingup.CartPoleSwingUp`.

    Args:
        hard: Start anywhere on the track and fast, instead of hanging at rest.
        render_mode: None or ``"rgb_array"``, ``[400, 600, 3]`` uint8.

    Attributes:
        simulator: The task as a tensor program, for agents that can use it.
        state: (x, dx/dt, theta, dtheta/dt); may be set.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / DT)}  # noqa: RUF012

    def __init__(self, hard: bool = False, render_mode: str | None = None) -> None:
        self.simulator, self.render_mode = CartPoleSwingUp(bool(hard)), render_mode
        self.observation_space: Any = self.simulator.observation_space
        self.action_space: Any = self.simulator.action_space
        self.state = (0.0, 0.0, math.pi, 0.0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw a start."""
        super().reset(seed=seed)
        x, velocity, angle, spin = self.simulator.start(self.np_random).tolist()
        self.state = (x, velocity, angle, spin)
        return self._observe(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Push the cart for 0.01 s; actions beyond [-1, 1] are clipped."""
        x, velocity, angle, spin = self.state
        push = min(max(float(np.asarray(action).reshape(-1)[0]), -1.0), 1.0)
        cart, pole = accelerations(velocity, math.cos(angle), math.sin(angle), spin, push)
        x, angle = x + velocity * DT, angle + spin * DT
        self.state = (x, velocity + cart * DT, angle, spin + pole * DT)
        reward = (1 + math.cos(angle)) / 2 * math.cos(math.pi / 2 * x / LIMIT)
        return self._observe(), reward, abs(x) > LIMIT, False, {}

    def _observe(self) -> NDArray[np.float32]:
        x, velocity, angle, spin = self.state
        return np.array([x, velocity, math.cos(angle), math.sin(angle), spin], np.float32)

    def render(self) -> NDArray[np.uint8] | None:
        """Return an image of track, cart and pole."""
        return None if self.render_mode is None else draw(self.state[0], self.state[2])


def draw(position: float, angle: float) -> NDArray[np.uint8]:
    """Draw a cart with its pole, ``[400, 600, 3]``.

    Args:
        position: Of the cart in metres; beyond the picture it is not seen.
        angle: Of the pole, 0 upright, clockwise.
    """
    image = np.full((_HEIGHT, _WIDTH, 3), _SKY, np.uint8)
    ground = _HEIGHT // 2
    image[ground - 1 : ground + 2] = _TRACK
    rows, columns = np.mgrid[:_HEIGHT, :_WIDTH]
    across, up = (columns - _WIDTH / 2) / _SCALE, (ground - rows) / _SCALE
    for end in (-LIMIT, LIMIT):
        image[(np.abs(across - end) < 0.02) & (np.abs(up) < 0.15)] = _END
    across = across - position
    image[(np.abs(across) < 0.2) & (np.abs(up) < 0.1)] = _CART
    along = np.clip(across * math.sin(angle) + up * math.cos(angle), 0, LENGTH)
    away = np.hypot(across - along * math.sin(angle), up - along * math.cos(angle))
    image[away < 0.04] = _POLE
    return image


def make_batch(env: gym.Env[Any, Any], n_envs: int, monitor: bool) -> VecEnv:
    """Multiply an environment in one tensor program.

    Args:
        env: The environment, as made by ``make_env``, with its time limit.
        n_envs: Number of copies.
        monitor: Put return and length of finished episodes into the infos.
    """
    inner: Any = env.unwrapped
    limit = env.spec.max_episode_steps if env.spec else None
    return SimulatorVecEnv(inner.simulator, n_envs, limit, monitor, env.spec)


def register() -> None:
    """Register both; what is registered already stays as it is."""
    tasks: dict[str, dict[str, Any]] = {
        "rlzoo/CartPoleSwingUp-v0": {},
        "rlzoo/CartPoleSwingUpHard-v0": {"hard": True},
    }
    for env_id, kwargs in tasks.items():
        if env_id not in gym.registry:
            gym.register(env_id, ENTRY_POINT, max_episode_steps=STEPS, kwargs=kwargs)
