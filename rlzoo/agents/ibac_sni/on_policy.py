"""The plumbing of an on-policy agent whose rollout stays on the device; no loss is in here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from rlzoo.agents.ibac_sni.cutout import cutout
from rlzoo.agents.ibac_sni.policies import IBACPolicy
from rlzoo.agents.ibac_sni.rewards import new_statistics, scale_rewards
from rlzoo.agents.ibac_sni.rollout import DeviceRolloutBuffer
from rlzoo.core.capture import Captured, adopt_loaded
from rlzoo.core.model_file import ModelPath
from rlzoo.core.seeding import stream


class DeviceOnPolicyAlgorithm(OnPolicyAlgorithm):
    """SB3's on-policy loop with one copy of every observation, scaled rewards and CUDA graphs.

    The constructor of the agent sets ``normalize_reward``, ``bootstrap_timeouts`` and ``cutout``;
    its ``_setup_model`` sets ``_graph`` and calls :meth:`_setup_acting`.
    """

    policy: IBACPolicy  # type: ignore[assignment]
    rollout_buffer: DeviceRolloutBuffer
    normalize_reward: bool
    bootstrap_timeouts: bool
    cutout: bool
    _graph: bool

    def _setup_acting(self) -> None:
        if len(getattr(self, "discounted_returns", ())) != self.n_envs:  # else from a file
            self.discounted_returns: NDArray[np.float64] = np.zeros(self.n_envs)
        if not hasattr(self, "return_statistics"):
            self.return_statistics = new_statistics()
        if self.cutout and not hasattr(self, "cutout_seed"):
            # Without a seed from the global generator, which the user may have seeded.
            drawn = int(np.random.randint(2**31)) if self.seed is None else self.seed  # noqa: NPY002
            self.cutout_seed = stream(drawn, "cutout")
        self._forget_graphs()

    def set_parameters(
        self,
        load_path_or_dict: ModelPath | dict[str, Any],
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """Load parameters as in SB3."""
        super().set_parameters(load_path_or_dict, exact_match, device)  # type: ignore[arg-type]
        adopt_loaded(self.policy.optimizer, self._graph)
        self._forget_graphs()  # they do not know the tensors of the new states

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_captured", "_inputs", "_graph"]

    # ------------------------------------------------------------------ graphs

    def _forget_graphs(self) -> None:
        self._captured: dict[tuple[str, int], Captured] = {}
        self._inputs: dict[tuple[str, int], th.Tensor] = {}

    def _run(self, function: Callable[[th.Tensor], th.Tensor], inputs: th.Tensor) -> th.Tensor:
        """Call a function, on CUDA as a graph: one for every number of rows.

        The result of a graph is overwritten by its next call.
        """
        if not self._graph:
            return function(inputs)
        key = (function.__name__, len(inputs))
        if key not in self._captured:
            self._inputs[key] = th.empty_like(inputs)
            self._captured[key] = Captured(partial(function, self._inputs[key]))
        self._inputs[key].copy_(inputs)
        return self._captured[key]()

    # ------------------------------------------------------------------ acting

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """Fill the buffer as SB3 does; observations are copied to the device once.

        Returns:
            False if a callback ended the training.
        """
        buffer = cast(DeviceRolloutBuffer, rollout_buffer)
        self.policy.set_training_mode(False)
        buffer.reset()
        if self.num_timesteps == 0:
            self.policy.warm_up(buffer.put_observation(self._learned_from(self._last_obs)))
        callback.on_rollout_start()
        for _ in range(n_rollout_steps):
            place = buffer.put_observation(self._learned_from(self._last_obs))
            action, values, log_probs = self._act(place)
            actions = action.cpu().numpy()
            new_obs, rewards, dones, infos = env.step(actions)
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            learned = self._learned_rewards(rewards, infos)
            buffer.put(action, learned, self._last_episode_starts, values, log_probs)
            self._last_obs, self._last_episode_starts = new_obs, dones  # type: ignore[assignment]
        last = th.as_tensor(self._learned_from(self._last_obs)).to(self.device)
        with th.no_grad():
            last_values = self.policy.predict_values(last)
        buffer.compute_returns_and_advantage(last_values, self._last_episode_starts)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _learned_from(self, observations: Any, name: int = 0) -> Any:
        """Return observations with rectangles drawn into them, if the settings say so.

        The rectangles follow from the step: the observation behind a rollout, whose value is its
        bootstrap, begins the next one with the same rectangles, also in a run that was continued.

        Args:
            observations: ``[n, channels, height, width]``.
            name: What else the rectangles follow from.
        """
        if not self.cutout:
            return observations
        rng = np.random.default_rng((self.cutout_seed, self.num_timesteps, name))
        return cutout(observations, rng)

    @th.no_grad()
    def _act(self, observation: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Return actions, values and log-probabilities, ``[N]`` each; valid until the next call."""
        if not self._graph:
            found: tuple[th.Tensor, th.Tensor, th.Tensor] = self.policy(observation)
            return found
        actions, values, log_probs = self._run(self._act_packed, observation).unbind()
        return actions.long(), values, log_probs

    def _act_packed(self, observation: th.Tensor) -> th.Tensor:
        actions, values, log_probs = self.policy(observation)
        return th.stack((actions.float(), values, log_probs))

    def _learned_rewards(
        self, rewards: NDArray[Any], infos: list[dict[str, Any]]
    ) -> NDArray[np.float32]:
        """Return the rewards to learn from ``[N]``, scaled and bootstrapped as the settings say."""
        learned = rewards.astype(np.float32)
        wrapper = self._vec_normalize_env
        if self.normalize_reward and not (wrapper is not None and wrapper.norm_reward):
            starts = cast(Any, self._last_episode_starts)
            learned, self.discounted_returns, self.return_statistics = scale_rewards(
                rewards, starts, self.discounted_returns, self.return_statistics, self.gamma
            )
        if self.bootstrap_timeouts:
            for index, info in enumerate(infos):
                last = info.get("terminal_observation")
                if last is not None and info.get("TimeLimit.truncated", False):
                    # The step's own rectangles are those of the first frame of the next episode.
                    seen = self._learned_from(last[None], index + 1)
                    observation = self.policy.obs_to_tensor(seen)[0]
                    with th.no_grad():
                        value = self.policy.predict_values(cast(Any, observation))
                    learned[index] += self.gamma * value.item()
        return learned
