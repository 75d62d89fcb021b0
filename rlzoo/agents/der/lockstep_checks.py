"""Which agents may learn in lock-step: those that differ in seed and game only."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from stable_baselines3.common.preprocessing import get_flattened_obs_dim

from rlzoo.agents.der.der import DER
from rlzoo.agents.der.policies import CnnPolicy, DERPolicy, MlpPolicy
from rlzoo.errors import RefusedError

# Arguments of the constructor that may differ, or (policy, learning rate) are compared otherwise.
_FREE = {"self", "policy", "env", "seed", "_init_setup_model"}
_FREE |= {"learning_rate", "stats_window_size", "tensorboard_log", "verbose"}
_ALLOWED = "Allowed in lock-step: agents that differ in environment, seed and number of actions."


def check_agents(agents: Sequence[DER]) -> None:
    """Compare every agent with the first.

    Raises:
        RefusedError: Naming the agents and the first difference, or what cannot be stacked at all.
    """
    if not agents:
        raise RefusedError("No agents are given.", "Allowed: one or more.")
    for i, agent in enumerate(agents):
        _check_one(i, agent)
    _check_distinct(agents, "agents", "agent")
    _check_distinct([agent.env for agent in agents], "environments", "environment")
    expected = _settings(agents[0])
    for i, agent in enumerate(agents[1:], 1):
        for name, value in _settings(agent).items():
            if value != expected[name]:
                raise RefusedError(
                    f"Agents 0 and {i} have {name} {expected[name]} and {value}.", _ALLOWED
                )


def _check_one(i: int, agent: DER) -> None:
    if type(agent) is not DER or agent.policy_class not in (DERPolicy, MlpPolicy, CnnPolicy):
        kind = f"{type(agent).__name__} with {agent.policy_class.__name__}"
        raise RefusedError(
            f"Agent {i} is {kind}.",
            "Allowed in lock-step: DER itself, with MlpPolicy or CnnPolicy.",
        )
    if agent.env is None or agent.replay_buffer is None:
        raise RefusedError(
            f"Agent {i} has no environment, or no replay buffer.",
            todo="Pass env= where it is loaded, or call set_env.",
        )
    if agent._vec_normalize_env is not None:
        raise RefusedError(
            f"Agent {i} has VecNormalize, which changes what is stored at every sampling.",
            "Allowed in lock-step: environments without it.",
        )
    if agent.learning_starts < agent.n_steps * agent.n_envs:
        raise RefusedError(
            f"learning_starts={agent.learning_starts} with windows of {agent.n_steps} steps in "
            f"{agent.n_envs} environment{'s' if agent.n_envs > 1 else ''}.",
            f"Allowed in lock-step: {agent.n_steps * agent.n_envs} or more, so that all agents "
            "have a whole window then.",
        )


def _check_distinct(things: Sequence[Any], names: str, name: str) -> None:
    if len({id(thing) for thing in things}) < len(things):
        raise RefusedError(
            f"Among {len(things)} {names} one is given twice.",
            f"Allowed: an {name} for each.",
        )


def _settings(agent: DER) -> dict[str, Any]:
    """Return what has to be equal, by the name that a user knows."""
    settings: dict[str, Any] = {
        name: getattr(agent, name)
        for name in inspect.signature(DER.__init__).parameters
        if name not in _FREE
    }
    space, buffer = agent.observation_space, agent.replay_buffer
    settings["learning_rate"] = [float(agent.lr_schedule(x / 8)) for x in range(9)]
    settings["policy"] = agent.policy_class.__name__
    settings["observations"] = (
        f"{type(space).__name__} {space.shape} {space.dtype}, {get_flattened_obs_dim(space)} wide"
    )
    settings["environments side by side:"] = agent.n_envs
    settings["replay buffers"] = (type(buffer).__name__, getattr(buffer, "buffer_size", None))
    settings["steps taken:"] = agent.num_timesteps
    settings["updates taken:"] = agent._n_updates
    return settings
