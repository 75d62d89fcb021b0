"""Policy and world model of one agent, and acting on predictions of what is not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from rlzoo.agents.observational_dropout.environments import indices
from rlzoo.agents.observational_dropout.population import Networks
from rlzoo.agents.observational_dropout.recursion import Act, Predict, believe, choose
from rlzoo.agents.observational_dropout.stacked import Shape
from rlzoo.agents.observational_dropout.world_models import WORLD_MODELS
from rlzoo.core.arguments import AT_LEAST_ONE, check_arguments
from rlzoo.errors import RefusedError

State = tuple[NDArray[Any], ...]


class Dense(nn.Module):
    """Weight ``[in, out]`` and bias ``[out]``, in the order of the official parameter files."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(th.zeros(shape))
        self.bias = nn.Parameter(th.zeros(shape[1]))


class ObsDropoutPolicy(BasePolicy):
    """World model and policy; acts on what it sees, or on what it believes.

    ``predict`` threads a state ``(prediction [n, O], peek [n])`` from step to step, row by row;
    with ``lagged_action`` it has the last action ``[n, A]`` as well.
    Without one, and where ``episode_start`` says so, the true observation is used. The flags of the
    next step come from a generator of the policy's own; ``deterministic`` does not concern them.
    Discrete actions are drawn from a softmax, with torch's generator as in SB3, or are the
    likeliest ones where ``deterministic``; the paper draws them in evaluations, too.

    Args:
        observation_space: A Box that is not an image.
        action_space: A bounded Box, or Discrete.
        lr_schedule: Not used, for SB3's interface.
        net_arch: Hidden widths of the policy. [paper] ``[10]``.
        model_arch: Hidden widths of the world model. None: 120 [paper] for ``cartpole``, 64 [ours]
            for ``residual``.
        world_model: Kind of world model, set by the agent.
        peek_prob: Probability of seeing the true observation, set by the agent.
        zero_policy: Begin with zeros, set by the agent.
        lagged_action: Tell the model the action of the step before, set by the agent.

    Raises:
        RefusedError: For other spaces, or a world model that does not fit them.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule | None = None,
        net_arch: Sequence[Annotated[int, AT_LEAST_ONE]] = (10,),
        model_arch: Sequence[Annotated[int, AT_LEAST_ONE]] | None = None,
        world_model: str = "residual",
        peek_prob: float = 1.0,
        zero_policy: bool = True,
        lagged_action: bool = False,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_arguments(ObsDropoutPolicy.__init__, arguments, owner=type(self).__name__)
        super().__init__(observation_space, action_space)
        image = is_image_space(observation_space, check_channels=False)
        if image or not isinstance(observation_space, spaces.Box):
            raise RefusedError(
                f"Observations of {observation_space}.",
                "Allowed: a Box that is not an image.",
                "Flatten them, or encode images first.",
            )
        if world_model not in WORLD_MODELS:
            raise RefusedError(
                f"world_model={world_model!r} is unknown.", f"Allowed: {', '.join(WORLD_MODELS)}."
            )
        self.net_arch = list(net_arch)
        self.model_arch = None if model_arch is None else list(model_arch)
        self.world_model, self.peek_prob, self.zero_policy = world_model, peek_prob, zero_policy
        self.lagged_action = lagged_action
        self.n_observations = get_flattened_obs_dim(observation_space)
        self.networks = Networks.make(
            world_model, self.n_observations, spaces.flatdim(action_space), self.net_arch,
            self.model_arch, isinstance(action_space, spaces.Discrete), lagged_action,
        )  # fmt: skip
        self.model_layers = nn.ModuleList(map(Dense, self.networks.model.shapes))
        self.policy_layers = nn.ModuleList(map(Dense, self.networks.policy_shapes))
        if not zero_policy:
            for weight in (p for p in self.parameters() if p.dim() == 2):
                nn.init.normal_(weight, std=len(weight) ** -0.5)
        self.requires_grad_(False)
        self.seed_peeks(None)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            "net_arch": self.net_arch,
            "model_arch": self.model_arch,
            "world_model": self.world_model,
            "peek_prob": self.peek_prob,
            "zero_policy": self.zero_policy,
            "lagged_action": self.lagged_action,
        }

    # ------------------------------------------------------------------ vector

    @property
    def vector(self) -> th.Tensor:
        """A copy of all parameters, ``[P]``: the model's layers, then the policy's."""
        return nn.utils.parameters_to_vector(self._layers()).detach()

    def load_vector(self, vector: th.Tensor) -> None:
        """Set all parameters."""
        nn.utils.vector_to_parameters(vector.to(self.device, th.float32), self._layers())

    def _layers(self) -> list[nn.Parameter]:
        return [*self.model_layers.parameters(), *self.policy_layers.parameters()]

    def bind(self) -> tuple[Act, Predict]:
        """Return policy and world model for inputs ``[1, n, ...]``, with the weights of now."""
        return self.networks.bind(nn.utils.parameters_to_vector(self._layers()).unsqueeze(0))

    # ------------------------------------------------------------------ acting

    def seed_peeks(self, seed: int | None) -> None:
        """Seed the generator that draws peeks in :meth:`predict`."""
        self.peeks = np.random.default_rng(seed)

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: State | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State | None]:
        """Act on the observations or, where they are not seen, on the predictions.

        Args:
            observation: ``[n, ...]``, or a single one.
            state: What the last call returned; None looks at every row.
            episode_start: ``[n]``; rows that begin an episode are looked at.
            deterministic: Take the likeliest of discrete actions; without effect on others.

        Returns:
            Actions in the units of the environment, and the state for the next step.
        """
        self.set_training_mode(False)
        given: Any = observation
        if isinstance(given, tuple) and len(given) == 2:
            raise ValueError(
                "You have passed a tuple to the predict() function instead of a Numpy array or a "
                "Dict. You are probably mixing Gym API with SB3 VecEnv API: `obs, info = "
                "env.reset()` (Gym) vs `obs = vec_env.reset()` (SB3 VecEnv)."
            )
        obs, vectorized = self.obs_to_tensor(observation)
        with th.no_grad():
            action, state = self._act(self._flat(obs), state, episode_start, deterministic)
        actions = self.to_env(action)
        return (actions if vectorized else actions.squeeze(0)), state

    def to_env(self, action: th.Tensor) -> NDArray[Any]:
        """Return actions of the environment from those in [-1, 1] or one-hot, ``[n, A]``."""
        space = self.action_space
        if isinstance(space, spaces.Discrete):
            return indices(action, space)
        if not isinstance(space, spaces.Box):
            raise TypeError(f"Actions of {space}.")
        scaled = self.unscale_action(action.cpu().numpy().reshape(-1, *space.shape))
        actions: NDArray[Any] = np.clip(scaled, space.low, space.high).astype(space.dtype)
        return actions

    def _act(
        self,
        obs: th.Tensor,
        state: State | None,
        episode_start: NDArray[Any] | None,
        deterministic: bool,
    ) -> tuple[th.Tensor, State]:
        """Return actions in [-1, 1] or one-hot ``[n, A]``, and the next state."""
        n = len(obs)
        act, predict = self.bind()
        told = idle = self.networks.idle(obs)
        if state is None:
            x = obs
        else:
            peek = np.asarray(state[1], bool)
            if episode_start is not None:
                peek = peek | np.asarray(episode_start, bool)
            believed = th.as_tensor(state[0], dtype=obs.dtype, device=obs.device)
            x = believe(obs, believed, th.from_numpy(peek).to(obs.device))
            if idle is not None:
                begun = np.zeros(n, bool) if episode_start is None else episode_start
                last = th.as_tensor(state[2], dtype=obs.dtype, device=obs.device)
                told = believe(idle, last, th.as_tensor(begun, dtype=th.bool, device=obs.device))
        action = self._pick(act(x.unsqueeze(0)), deterministic)
        given = action if told is None else told.unsqueeze(0)
        prediction = predict(x.unsqueeze(0), given).squeeze(0).cpu().numpy()
        peeks = self.peeks.random(n) < self.peek_prob
        done = action.squeeze(0)
        return done, (prediction, peeks, *([] if told is None else [done.cpu().numpy()]))

    def _pick(self, output: th.Tensor, deterministic: bool) -> th.Tensor:
        """Return actions in [-1, 1] or one-hot from outputs of the policy, ``[*N, A]``."""
        if not self.networks.discrete:
            return output
        lead = output.shape[:-1]
        return choose(output, None if deterministic else th.rand(lead, device=output.device))

    def _flat(self, obs: PyTorchObs) -> th.Tensor:
        if not isinstance(obs, th.Tensor):
            raise TypeError(f"Observations are arrays here, not {type(obs).__name__}.")
        return obs.reshape(len(obs), -1).float()

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Return the actions for true observations, in [-1, 1] or one-hot."""
        return self._predict(obs, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        act, _ = self.bind()
        return self._pick(act(self._flat(observation).unsqueeze(0)), deterministic).squeeze(0)
