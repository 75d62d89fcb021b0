"""The policy: model, denoiser and statistics, and acting by planning with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, cast

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from rlzoo.agents.dae_mpc.decision import Decided, Decider
from rlzoo.agents.dae_mpc.denoiser import Denoiser, Penalty, plan_windows
from rlzoo.agents.dae_mpc.dynamics import DynamicsModel, Propagation
from rlzoo.agents.dae_mpc.objective import Objective, Score
from rlzoo.agents.dae_mpc.planners import PlannerSettings, move_on
from rlzoo.core.arguments import AT_LEAST_ONE, check_arguments
from rlzoo.core.capture import wants_cuda_graph
from rlzoo.core.mpc_tasks import MpcTask, get_task
from rlzoo.errors import RefusedError

State = tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class PlanSpec:
    """How the policy plans; set by the agent, see its arguments of the same names.

    Args:
        task: Name of the task; None: nothing is known, and the reward is learned.
        learned_reward: Learn the reward although the task has one.
    """

    task: str | None = None
    learned_reward: bool = True
    horizon: int = 30
    planner: PlannerSettings = field(default_factory=PlannerSettings)
    replan_every: int = 1
    alpha: float = 0.0
    gamma: float = 1.0
    dae: bool = True
    window: int = 1
    penalty: Penalty = field(default_factory=Penalty)
    dae_hinge: float | None = None
    dae_residual: bool = False
    n_ensemble: int = 1
    propagation: Propagation = "mean"
    n_particles: int = 1
    normalize_targets: bool = True
    bf16: bool = False
    capture: bool | str = False

    def find_task(self, n_observations: int, n_actions: int) -> MpcTask:
        """Return the task, checked against the widths of the environment."""
        if self.task is None:
            return MpcTask("unknown", n_observations, n_actions)
        task = get_task(self.task)
        task.check(n_observations, n_actions)
        return task


class MpcPolicy(BasePolicy):
    """Plans from every observation; ``predict`` carries the last plan in its state.

    The state is ``(plans [n, H, A], steps since the last plan [n])``: plans are scaled to [-1, 1]
    and moved on by a step. ``deterministic=True`` plans with the same random numbers in every call;
    otherwise they are seeded by torch's global generator. All rows of a batch see the same ones.

    Args:
        observation_space: A Box that is not an image; it is flattened.
        action_space: A bounded Box.
        lr_schedule: Learning rate of model and denoiser.
        net_arch: Hidden widths of the model. [paper] three of 200.
        dae_arch: Hidden widths of the denoiser; None: as ``net_arch`` [paper].
        spec: Set by the agent.

    Raises:
        RefusedError: For other spaces, or a task that does not fit them.
    """

    fitted: th.Tensor
    threshold: th.Tensor
    low: th.Tensor
    high: th.Tensor
    columns: th.Tensor | None

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: Sequence[Annotated[int, AT_LEAST_ONE]] = (200, 200, 200),
        dae_arch: Sequence[Annotated[int, AT_LEAST_ONE]] | None = None,
        spec: PlanSpec | None = None,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_arguments(MpcPolicy.__init__, arguments, owner=type(self).__name__)
        super().__init__(observation_space, action_space)
        check_observations(observation_space, type(self).__name__)
        self.net_arch = list(net_arch)
        self.dae_arch = None if dae_arch is None else list(dae_arch)
        self.spec = spec = spec or PlanSpec()
        self.n_actions = int(spaces.flatdim(action_space))
        self.task = spec.find_task(get_flattened_obs_dim(observation_space), self.n_actions)
        self.dynamics = DynamicsModel(
            self.task, spec.n_ensemble, self.net_arch, spec.learned_reward,
            spec.normalize_targets, spec.propagation, spec.n_particles, spec.bf16,
        )  # fmt: skip
        self._register_columns()
        self.denoiser = self._make_denoiser() if spec.dae else None
        self.register_buffer("fitted", th.tensor(False))
        # The quantile of the training errors, and the error below which the penalty is zero.
        self.register_buffer("threshold", th.zeros(()))
        for name in ("low", "high"):
            bound = th.as_tensor(getattr(action_space, name), dtype=th.float32).flatten()
            self.register_buffer(name, bound, persistent=False)
        rate = lr_schedule(1)
        self.optimizer = th.optim.Adam(self.dynamics.parameters(), lr=rate, fused=True)
        self.dae_optimizer = (
            None
            if self.denoiser is None
            else th.optim.Adam(self.denoiser.parameters(), lr=rate, fused=True)
        )
        self._decider: tuple[Any, Decider] | None = None

    def _register_columns(self) -> None:
        """Note which columns of a pair the denoiser sees: features of the task, all actions."""
        features, n = self.task.dae_dims, self.dynamics.n_features
        columns = None
        if features is not None:
            columns = th.tensor([*features, *range(n, n + self.n_actions)])
        self.register_buffer("columns", columns, persistent=False)

    def _make_denoiser(self) -> Denoiser:
        seen = self.dynamics.n_features + self.n_actions
        if self.columns is not None:
            seen = len(self.columns)
        arch = self.net_arch if self.dae_arch is None else self.dae_arch
        spec = self.spec
        return Denoiser(spec.window * seen, arch, spec.dae_residual, spec.bf16)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            "net_arch": self.net_arch,
            "dae_arch": self.dae_arch,
            "spec": self.spec,
        }

    def set_training_mode(self, mode: bool) -> None:
        """Note the mode. No layer here has one, and SB3 switches three times per step."""
        self.training = mode

    @property
    def is_fitted(self) -> bool:
        """Whether the model has seen data."""
        return bool(self.fitted)

    def optimizers(self) -> list[th.optim.Optimizer]:
        """Return the optimisers, the model's first."""
        return [o for o in (self.optimizer, self.dae_optimizer) if o is not None]

    # ---------------------------------------------------------------- planning

    @property
    def objective(self) -> Objective:
        """What plans are worth, with the weights of now."""
        spec = self.spec
        hinge = None if spec.dae_hinge is None else self.threshold
        return Objective(
            self.dynamics, self.task, self.low, self.high, spec.alpha, self.denoiser, self.columns,
            spec.window, spec.penalty, hinge, spec.gamma,
        )  # fmt: skip

    @property
    def decider(self) -> Decider:
        """The planner; made anew when the settings or the device change."""
        key = (self.spec, self.device, self.low.data_ptr())
        if self._decider is None or self._decider[0] != key:
            graph = wants_cuda_graph(self.spec.capture, self.device)
            made = Decider(self.objective, self.spec.planner, self.spec.horizon, graph)
            self._decider = key, made
        return self._decider[1]

    @th.no_grad()
    def decide(
        self,
        obs: th.Tensor,
        state: State | None,
        episode_start: NDArray[Any] | None,
        deterministic: bool,
    ) -> tuple[Decided, State]:
        """Plan where it is due; rows between two plans go on with theirs.

        Args:
            obs: ``[n, S]``.
            state: What the last call returned; None begins anew everywhere.
            episode_start: ``[n]``; rows that begin anew.
            deterministic: Plan with the same random numbers in every call.

        Returns:
            Plans ``[H, n, A]``, whose first action is to be taken, and the next state.
        """
        plans, age = self._recall(len(obs), state, episode_start)
        due = age % self.spec.replan_every == 0
        n_bad = th.zeros((), dtype=th.int64, device=obs.device)
        if due.any():
            seed = None if deterministic else int(th.randint(2**62, ()))
            found = self.decider(obs, plans, seed)
            rows = th.from_numpy(due).to(obs.device).view(1, -1, 1)
            plans = found.plans if due.all() else th.where(rows, found.plans, plans)
            n_bad = found.n_bad
        later = move_on(plans).transpose(0, 1).cpu().numpy()
        return Decided(plans, n_bad), (later, age + 1)

    def _recall(
        self, n: int, state: State | None, episode_start: NDArray[Any] | None
    ) -> tuple[th.Tensor, NDArray[np.int64]]:
        """Return plans ``[H, n, A]`` and their ages; both zero for what begins."""
        shape = (n, self.spec.horizon, self.n_actions)
        if state is None:
            return th.zeros(shape, device=self.device).transpose(0, 1), np.zeros(n, np.int64)
        plans, age = np.array(state[0], np.float32), np.array(state[1], np.int64)
        if plans.shape != shape:
            raise ValueError(f"The state is of shape {plans.shape}; {shape} was expected.")
        if episode_start is not None:
            begins = np.asarray(episode_start, bool)
            plans[begins], age[begins] = 0, 0
        return th.from_numpy(plans).to(self.device).transpose(0, 1), age

    @th.no_grad()
    def imagine(self, obs: th.Tensor, plans: th.Tensor) -> Score:
        """Return what the model says of plans ``[H, n, A]``; each ``[n, 1]``."""
        return self.objective(obs, plans.unsqueeze(2), self.fixed_generator(), familiar=True)

    def errors(self, pairs: th.Tensor) -> th.Tensor:
        """Return the denoiser's error of every window of plans, without hinge or target.

        Args:
            pairs: Of a rollout, ``[H, R, d]``.

        Returns:
            ``[H - w + 1, R]``, in normalised units.

        Raises:
            RefusedError: If there is no denoiser.
        """
        if self.denoiser is None:
            raise RefusedError(
                "There is no denoiser to tell what is familiar.", "Allowed: dae=True."
            )
        seen = pairs if self.columns is None else pairs.index_select(-1, self.columns)
        return Penalty()(self.denoiser, plan_windows(seen, self.spec.window))

    def fixed_generator(self) -> th.Generator | None:
        """Return a generator of always the same particles; None where there are none."""
        if self.dynamics.n_particles == 1:
            return None
        return th.Generator(self.device).manual_seed(0)

    # ------------------------------------------------------------------ acting

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: State | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State | None]:
        """Act as in SB3, and hand back the plans as the state of the next call.

        Args:
            observation: ``[n, ...]``, or a single one.
            state: What the last call returned; None begins anew.
            episode_start: ``[n]``; rows that begin an episode forget their plan.
            deterministic: Plan with the same random numbers in every call.
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
        found, state = self.decide(self.flat(obs), state, episode_start, deterministic)
        actions = self.unscaled(found.plans[0])
        return (actions if vectorized else actions.squeeze(0)), state

    def unscaled(self, actions: th.Tensor) -> NDArray[Any]:
        """Return actions ``[n, A]`` in the units and the shape of the environment."""
        space = cast(spaces.Box, self.action_space)
        rows = self.unscale_action(actions.cpu().numpy().reshape(-1, *space.shape))
        clipped: NDArray[Any] = np.clip(rows, space.low, space.high).astype(space.dtype)
        return clipped

    def flat(self, obs: PyTorchObs) -> th.Tensor:
        """Return observations as vectors, ``[n, S]``."""
        if not isinstance(obs, th.Tensor):
            raise TypeError(f"Observations are arrays here, not {type(obs).__name__}.")
        return obs.reshape(len(obs), -1).float()

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Return actions in [-1, 1], ``[n, A]``, without a warm start."""
        return self._predict(obs, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self.decide(self.flat(observation), None, None, deterministic)[0].plans[0]


def check_observations(space: spaces.Space[Any], owner: str) -> None:
    """Refuse what is not a vector.

    Raises:
        RefusedError: For images and for spaces other than a Box.
    """
    if is_image_space(space, check_channels=False) or not isinstance(space, spaces.Box):
        raise RefusedError(
            f"{owner} cannot take the observation space {str(space)[:150]}.",
            "Allowed: a Box that is not an image.",
            "Encode or flatten it (gymnasium.wrappers.FlattenObservation).",
        )
