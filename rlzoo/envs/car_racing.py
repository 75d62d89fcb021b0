"""CarRacing-v3 in envpool, and seen through an encoder: 16 latents and three actions in [-1, 1].

Both renderers draw the same but for anti-aliasing and the digits of the score; an encoder is for
the frames that it has seen.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from rlzoo.core.car_racing import ACTIONS, ENV_ID, physical
from rlzoo.core.vae import FrameVAE, encoder_path, load_encoder
from rlzoo.envs.envpool_vec import EnvpoolVecEnv

ENTRY_POINT = "gymnasium.envs.box2d.car_racing:CarRacing"
_ACTIONS = spaces.Box(-1, 1, (ACTIONS,), np.float32)


class CarRacingPoolVecEnv(EnvpoolVecEnv):
    """``n_envs`` copies in C++.

    Args:
        n_envs: Number of copies.
        max_episode_steps: Length of an episode; None takes the task's 1,000.
        spec: What ``get_attr("spec")`` is made from.
        num_threads: See :class:`~rlzoo.envs.envpool_vec.EnvpoolVecEnv`.
        monitor: See there.
        config: envpool's options, such as ``lap_complete_percent``.

    Raises:
        RefusedError: If envpool is missing, or does not know an option.
    """

    def __init__(
        self,
        n_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        spec: EnvSpec | None = None,
        num_threads: int | None = None,
        monitor: bool = True,
        **config: Any,
    ) -> None:
        if max_episode_steps is not None:
            config["max_episode_steps"] = max_episode_steps
        self.spec: EnvSpec | None = None  # SB3 asks for it while the vector is made
        with warnings.catch_warnings():  # envpool gives bounds in float64
            warnings.filterwarnings("ignore", ".*precision lowered by casting", UserWarning)
            super().__init__(ENV_ID, n_envs, num_threads=num_threads, monitor=monitor, **config)
        self.spec = copy.copy(spec or EnvSpec(ENV_ID))
        if max_episode_steps is not None:
            self.spec.max_episode_steps = max_episode_steps

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return ``spec`` or ``render_mode``; copies in C++ have no other attributes."""
        if attr_name == "spec":
            return [self.spec for _ in self._get_indices(indices)]
        return super().get_attr(attr_name, indices)


def _latent_space(vae: FrameVAE) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (vae.n_latents,), np.float32)


def _to_env(actions: Any) -> NDArray[np.float32]:
    """Return the actions of the environment, a copy, for those in [-1, 1]."""
    found: NDArray[np.float32] = physical(th.as_tensor(np.asarray(actions, np.float32))).numpy()
    return found


class LatentVecEnv(VecEnvWrapper):
    """Frames become latents, all of a batch in one pass; actions are those of a tanh.

    Args:
        venv: CarRacing, frames of ``[96, 96, 3]``.
        vae: Its auto-encoder.
    """

    def __init__(self, venv: VecEnv, vae: FrameVAE) -> None:
        super().__init__(venv, _latent_space(vae), _ACTIONS)
        self.vae = vae

    @property
    def _seeds(self) -> Any:
        """Seeds of the next reset, which the inner environments have."""
        return self.venv._seeds

    @_seeds.setter
    def _seeds(self, seeds: Any) -> None:
        self.venv._seeds = seeds

    def reset(self) -> NDArray[np.float32]:
        """Begin new episodes."""
        first = self.vae.encode(np.asarray(self.venv.reset()))
        self.reset_infos = self.venv.reset_infos
        return first

    def step_async(self, actions: NDArray[Any]) -> None:
        """Start a step.

        Args:
            actions: ``[N, 3]`` in [-1, 1].
        """
        self.venv.step_async(_to_env(actions))

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step."""
        frames, rewards, dones, infos = self.venv.step_wait()
        over = np.flatnonzero(dones).tolist()
        last = [infos[index]["terminal_observation"] for index in over]
        codes = self.vae.encode(np.concatenate([np.asarray(frames), np.array(last)])
                                if over else np.asarray(frames))  # fmt: skip
        for row, index in enumerate(over):
            infos[index]["terminal_observation"] = codes[len(dones) + row]
        return codes[: len(dones)], rewards, dones, infos


class LatentEnv(gym.Wrapper[Any, Any, Any, Any]):
    """The same for one environment.

    Args:
        env: CarRacing.
        vae: Its auto-encoder.
    """

    def __init__(self, env: gym.Env[Any, Any], vae: FrameVAE) -> None:
        super().__init__(env)
        self.vae = vae
        self.observation_space, self.action_space = _latent_space(vae), _ACTIONS

    def reset(self, **kwargs: Any) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode."""
        frame, info = self.env.reset(**kwargs)
        return self.vae.encode(frame[None])[0], info

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], Any, bool, bool, dict[str, Any]]:
        """Step with an action in [-1, 1]."""
        frame, reward, terminated, truncated, info = self.env.step(_to_env(action))
        return self.vae.encode(frame[None])[0], reward, terminated, truncated, info


def take_encoder(env_id: str, env_kwargs: dict[str, Any], single: bool = False) -> FrameVAE | None:
    """Take ``encoder`` and ``encoder_device`` out of the arguments of CarRacing, and load it.

    Args:
        env_id: Id of the environment; of others nothing is taken.
        env_kwargs: Its keyword arguments. Without ``backend`` the one whose frames the encoder has
            seen is put in.
        single: One environment instead of a vector, which is always Gymnasium's.

    Raises:
        RefusedError: If there is no such encoder.
    """
    if env_id != ENV_ID or env_kwargs.get("encoder") is None:
        return None
    name, device = env_kwargs.pop("encoder"), env_kwargs.pop("encoder_device", "cpu")
    vae, card = load_encoder(encoder_path(str(name), ENV_ID), device)
    seen = str(card.get("backend", "gymnasium"))
    if importlib.util.find_spec("envpool") is not None:
        env_kwargs.setdefault("backend", seen)
    drawn = single or env_kwargs.get("render_mode") is not None
    used = "gymnasium" if drawn else env_kwargs.get("backend", "gymnasium")
    if used != seen:
        warnings.warn(f"The encoder has seen frames of {seen}, these are of {used}.", stacklevel=3)
    return vae


def encoder_digest(env_id: str, env_kwargs: Mapping[str, Any]) -> str | None:
    """Return the sha256 of the encoder's file, None where the environment has none.

    Args:
        env_id: Id of the environment.
        env_kwargs: Its keyword arguments.
    """
    if env_id != ENV_ID or env_kwargs.get("encoder") is None:
        return None
    with open(encoder_path(str(env_kwargs["encoder"]), ENV_ID), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
