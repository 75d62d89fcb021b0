"""What a learnt world model is good for: dreams, policies trained in them, and models swapped.

Page, sections 2.6 and 8 (tests 16, 18).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch as th
from numpy.typing import NDArray

from rlzoo.agents.observational_dropout.population import play
from rlzoo.agents.observational_dropout.stacked import size_of, split
from rlzoo.agents.observational_dropout.world_models import Predict, WorldModel, true_dynamics
from rlzoo.core.seeding import stream
from rlzoo.core.simulator import Simulator
from rlzoo.core.simulator_vec import SimulatorVecEnv
from rlzoo.errors import RefusedError

if TYPE_CHECKING:
    from rlzoo.agents.observational_dropout.observational_dropout import ObservationalDropout
    from rlzoo.agents.observational_dropout.policies import ObsDropoutPolicy

ModelName = Literal["learnt", "zero", "true"]


class Dream(Simulator):
    """A task whose dynamics are a learnt model; the state is the believed observation.

    Args:
        model: Kind of the world model.
        vector: Its parameters, ``[P]``; copied.
        task: Starts, rewards and ends.
    """

    def __init__(self, model: WorldModel, vector: th.Tensor, task: Simulator) -> None:
        self.model, self.task, self.name = model, task, f"dream of {task.name}"
        self.observation_space, self.action_space = task.observation_space, task.action_space
        self.max_steps, self.world_model = task.max_steps, task.world_model
        self._vector = vector.clone().unsqueeze(0)

    def start(self, rng: np.random.Generator, shape: Sequence[int] = ()) -> NDArray[np.float64]:
        """Draw the first observations, ``[*shape, O]``, from the task."""
        first: NDArray[np.float64] = self.task.observe(
            th.from_numpy(self.task.start(rng, shape))
        ).numpy()
        return first

    def observe(self, state: th.Tensor) -> th.Tensor:
        """Return the state, which is what is observed."""
        return state

    def step(
        self, state: th.Tensor, action: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
        """Take the prediction for the truth."""
        after = self.foresee(state, action)
        return after, after, *self.judge(after)

    def judge(self, observation: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Judge as the task does."""
        return self.task.judge(observation)

    def foresee(self, observation: th.Tensor, action: th.Tensor) -> th.Tensor:
        """Return the prediction of the learnt model."""
        self._vector = self._vector.to(observation)
        layers, lead = split(self._vector, self.model.shapes), observation.shape[:-1]
        x, a = observation.reshape(1, -1, observation.shape[-1]), action.clamp(-1, 1)
        found = self.model.predict(layers, x, a.reshape(1, -1, action.shape[-1]))
        return found.reshape(*lead, -1)


@dataclass(frozen=True)
class DreamResult:
    """A policy that was trained in a dream.

    Args:
        agent: The policy, an agent of its own.
        dream_returns: Undiscounted returns in the dream, ``[n]``.
        real_returns: In the real task, with every observation seen, ``[n]``.
        generations: Generations of its training.
    """

    agent: ObservationalDropout
    dream_returns: th.Tensor
    real_returns: th.Tensor
    generations: int

    def summary(self) -> dict[str, float]:
        """Return means, standard deviations and counts by name, for records."""
        return {
            "dream_return_mean": float(self.dream_returns.mean()),
            "dream_return_std": float(self.dream_returns.std()),
            "real_return_mean": float(self.real_returns.mean()),
            "real_return_std": float(self.real_returns.std()),
            "n_episodes": float(len(self.real_returns)),
            "generations": float(self.generations),
        }


def task_of(agent: ObservationalDropout) -> Simulator:
    """Return the simulator of an agent's environment.

    Raises:
        RefusedError: If it has none.
    """
    found = agent._simulator()
    if found is None:
        raise RefusedError(
            "Dreams need a task with known rewards and ends.",
            "Environments with a simulator have it: rlzoo/CartPoleSwingUp-v0 and its relatives.",
            "Load the agent with such an environment, or give task=...",
        )
    return found


def dream_of(agent: ObservationalDropout, task: Simulator | None = None) -> Dream:
    """Return the dream of an agent, with its weights of now.

    Raises:
        RefusedError: If no task is known, or the agent has no world model.
    """
    policy: ObsDropoutPolicy = agent.policy
    model = policy.networks.model
    if not model.shapes:
        raise RefusedError(
            "This agent has no world model to dream in.", "Allowed: world_model=cartpole, residual."
        )
    vector = policy.vector[: size_of(model.shapes)]
    return Dream(model, vector, task_of(agent).dream_task if task is None else task)


def returns_of(
    policy: ObsDropoutPolicy,
    task: Simulator,
    n_episodes: int,
    seed: int = 0,
    peek_prob: float | None = None,
    model: ModelName = "learnt",
) -> th.Tensor:
    """Play many episodes at once: some thousand take seconds.

    Args:
        policy: Policy and world model.
        task: What is played.
        n_episodes: Number of episodes.
        seed: Of starts and peeks.
        peek_prob: Probability of seeing the true observation; None for that of the policy.
        model: The learnt world model, the same with all weights zero, or the true dynamics.

    Returns:
        Undiscounted returns, ``[n_episodes]``.
    """
    p = policy.peek_prob if peek_prob is None else peek_prob
    scores = play(
        task, policy.networks, policy.vector.unsqueeze(0), n_episodes, p,
        np.random.default_rng(stream(seed, "returns")), model=_model(policy, task, model),
        mirrored=False,
    )  # fmt: skip
    if scores is None:
        raise RuntimeError("Nobody broke the episodes off.")
    return scores.returns.squeeze(0).cpu()


def _model(policy: ObsDropoutPolicy, task: Simulator, name: ModelName) -> Predict | None:
    if name == "true":
        return true_dynamics(task)
    if name == "learnt":
        return None
    kind = policy.networks.model
    zeros = th.zeros(1, size_of(kind.shapes), device=policy.device)
    return partial(kind.predict, split(zeros, kind.shapes))


def swap_models(
    agent: ObservationalDropout,
    n_episodes: int = 1_000,
    seed: int = 0,
    peek_prob: float | None = None,
    task: Simulator | None = None,
) -> dict[str, th.Tensor]:
    """Play with the learnt model, with zeros for its weights, and with the true dynamics.

    A model that matters lies between the other two. Starts and peeks are the same for all.

    Args:
        agent: A trained agent.
        n_episodes: Episodes with each model.
        seed: Of starts and peeks.
        peek_prob: See :func:`returns_of`.
        task: What is played; None for the agent's own.

    Returns:
        Returns ``[n_episodes]`` by name: ``learnt``, ``zero``, ``true``.

    Raises:
        RefusedError: If no task is known.
    """
    played = task_of(agent) if task is None else task
    names: tuple[ModelName, ...] = ("learnt", "zero", "true")
    return {
        name: returns_of(agent.policy, played, n_episodes, seed, peek_prob, name) for name in names
    }


def train_in_dream(
    agent: ObservationalDropout,
    generations: int = 400,
    optimizer: Literal["auto", "pepg", "openes", "cma"] = "auto",
    n_episodes: int = 100,
    seed: int = 0,
    task: Simulator | None = None,
    on_generation: Callable[[int, float], None] | None = None,
    dream: Dream | None = None,
    **settings: Any,
) -> DreamResult:
    """Train a fresh policy in the frozen world model of an agent, and play it in the real task.

    The policy has the hidden widths of the agent's and sees every dreamt observation. As published
    with CMA-ES: 32 candidates, one episode each, sigma 0.5; where ``cma`` is not installed, PEPG
    with 64 candidates.

    Args:
        agent: A trained agent.
        generations: Of the fresh policy. [code] 400.
        optimizer: ``"auto"``: ``"cma"`` if installed, else ``"pepg"``.
        n_episodes: Episodes in dream and reality afterwards. [paper] 100.
        seed: Of the training and of the episodes.
        task: The real task; None: that of the environment as it is dreamt (easy starts).
        on_generation: Told number and mean return in the dream of every generation.
        dream: Another dream than that of the agent's own world model.
        settings: Constructor arguments of the fresh agent.

    Raises:
        RefusedError: If no task is known, or ``cma`` is asked for and missing.
    """
    chosen = _installed() if optimizer == "auto" else optimizer
    cma: dict[str, Any] = {"pop_size": 32, "n_eval_episodes": 1, "sigma_init": 0.5}
    other: dict[str, Any] = {"pop_size": 64, "n_eval_episodes": 4, "learning_rate": 0.05}
    dream = dream_of(agent, task) if dream is None else dream
    fresh = type(agent)(
        "MlpPolicy", SimulatorVecEnv(dream), peek_prob=1.0, world_model="none",
        optimizer=chosen, seed=seed, device=agent.device,
        **{
            **(cma if chosen == "cma" else other),
            "policy_kwargs": {"net_arch": agent.policy.net_arch},
            **settings,
        },
    )  # fmt: skip
    for number in range(1, generations + 1):
        fresh.learn(1, log_interval=None, reset_num_timesteps=False)
        if on_generation is not None:
            on_generation(number, -float(fresh.logger.name_to_value["train/policy_loss"]))
    play_in = partial(returns_of, fresh.policy, n_episodes=n_episodes, seed=seed)
    return DreamResult(fresh, play_in(dream), play_in(dream.task), generations)


def _installed() -> Literal["pepg", "cma"]:
    return "pepg" if find_spec("cma") is None else "cma"
