"""Every agent that ``rlzoo train`` knows. Standard library only: listing needs no torch."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from rlzoo.errors import RefusedError, did_you_mean


@dataclass(frozen=True)
class AgentSpec:
    """What the rest of rlzoo may know about an agent without importing it.

    Args:
        name: Name on the command line.
        class_path: ``"module:Class"`` of the SB3 class.
        action_spaces: Names of the Gymnasium action spaces that it accepts.
        needs_data: Trains on a data set instead of interacting with the environment.
        default_env: Environment taken when none is given.
        summary: One line for ``rlzoo list``.
        paper: arXiv number, or where it comes from.
        paper_env: An environment of the paper that needs more than the default one; it is named
            where none was given.
        demonstrations: Takes demonstrations beside the environment. Its class has
            ``uses_demonstrations(arguments)``, which says whether these arguments need them.
        dreams: Learns a world model in which a policy can be trained: its class has ``dream_env``
            and ``train_in_dream``.
        pictures: Module that draws what the agent believes; see :mod:`rlzoo.runs.pictures`.
    """

    name: str
    class_path: str
    action_spaces: tuple[str, ...]
    needs_data: bool
    default_env: str
    summary: str
    paper: str = ""
    paper_env: str = ""
    demonstrations: bool = False
    dreams: bool = False
    pictures: str = ""

    def load_class(self) -> type[Any]:
        """Import the module of the agent and return its class."""
        module, _, name = self.class_path.partition(":")
        loaded: type[Any] = getattr(importlib.import_module(module), name)
        return loaded


_BOX = ("Box",)
_ALL = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")

AGENTS: dict[str, AgentSpec] = {
    spec.name: spec
    for spec in (
        AgentSpec(
            "bear", "rlzoo.agents.bear:BEAR", _BOX, True, "Hopper-v4",
            "batch RL: twin critics, actor held to the support of the data by MMD", "1906.00949",
        ),
        AgentSpec(
            "bcq", "rlzoo.agents.bcq:BCQ", _BOX, True, "Hopper-v4",
            "batch RL: perturbed samples of a behaviour model, chosen by the critic", "1812.02900",
        ),
        AgentSpec(
            "bc", "rlzoo.agents.bc:BC", _BOX, True, "Hopper-v4",
            "behaviour cloning: mean squared error, Gaussian, or BEAR's auto-encoder", "1906.00949",
        ),
        AgentSpec(
            "td3-batch", "rlzoo.agents.batch:TD3Batch", _BOX, True, "Hopper-v4",
            "SB3's TD3 on a fixed data set: naive batch RL", "1802.09477",
        ),
        AgentSpec(
            "sac-batch", "rlzoo.agents.batch:SACBatch", _BOX, True, "Hopper-v4",
            "SB3's SAC on a fixed data set: naive batch RL", "1801.01290",
        ),
        AgentSpec(
            "dae-mpc", "rlzoo.agents.dae_mpc:DAEMPC", _BOX, False, "Pendulum-v1",
            "plans through a learnt model, held to familiar ground by a denoising autoencoder",
            "1903.11981", pictures="rlzoo.agents.dae_mpc.pictures",
        ),
        AgentSpec(
            "der", "rlzoo.agents.der:DER", ("Discrete",), False, "CartPole-v1",
            "data-efficient Rainbow: C51, noisy dueling networks, prioritised n-step replay",
            "1906.05243", paper_env="ALE/RoadRunner-v5",
        ),
        AgentSpec(
            "dyna-dqn", "rlzoo.agents.dyna_dqn:DynaDQN", ("Discrete",), False, "CartPole-v1",
            "Q-learning from replay or from a model: forward, backward, rollouts, look-ahead",
            "1906.05243",
        ),
        AgentSpec(
            "goal-gail", "rlzoo.agents.goal_gail:GoalGAIL", _BOX, False, "rlzoo/MiniFourRooms-v0",
            "goal-conditioned imitation with hindsight; HER, GAIL and cloning as other modes",
            "1906.05838", paper_env="rlzoo/FourRooms-v0", demonstrations=True,
        ),
        AgentSpec(
            "ibac-sni", "rlzoo.agents.ibac_sni:IBACSNI", ("Discrete",), False, "CoinRun",
            "PPO with an information bottleneck and noise in part of the policy gradient",
            "1910.12911",
        ),
        AgentSpec(
            "obs-dropout", "rlzoo.agents.observational_dropout:ObservationalDropout",
            ("Box", "Discrete"), False, "rlzoo/CartPoleSwingUp-v0",
            "evolves a policy with the world model that it acts on where it may not look",
            "1910.13038", dreams=True,
            pictures="rlzoo.agents.observational_dropout.pictures",
        ),
        AgentSpec(
            "obs-dropout-ppo", "rlzoo.agents.observational_dropout:ObsDropoutPPO",
            ("Box", "Discrete"), False, "rlzoo/CartPoleSwingUp-v0",
            "PPO through the predictions of a world model where it may not look", "1910.13038",
            pictures="rlzoo.agents.observational_dropout.pictures",
        ),
        AgentSpec(
            "sac", "stable_baselines3:SAC", _BOX, False, "Hopper-v4",
            "SB3's soft actor-critic", "1801.01290",
        ),
        AgentSpec(
            "td3", "stable_baselines3:TD3", _BOX, False, "Hopper-v4",
            "SB3's twin delayed DDPG", "1802.09477",
        ),
        AgentSpec(
            "ppo", "stable_baselines3:PPO", _ALL, False, "Hopper-v4",
            "SB3's proximal policy optimisation", "1707.06347",
        ),
        AgentSpec(
            "dqn", "stable_baselines3:DQN", ("Discrete",), False, "CartPole-v1",
            "SB3's deep Q-network", "1312.5602",
        ),
        AgentSpec(
            "tqc", "sb3_contrib:TQC", _BOX, False, "Hopper-v4",
            "sb3-contrib's truncated quantile critics", "2005.04269",
        ),
        AgentSpec(
            "crossq", "sb3_contrib:CrossQ", _BOX, False, "Hopper-v4",
            "sb3-contrib's CrossQ: batch normalisation instead of target networks", "1902.05605",
        ),
    )
}  # fmt: skip


def get_agent(name: str) -> AgentSpec:
    """Return the spec of an agent.

    Raises:
        RefusedError: If no agent has that name; the message has the nearest ones.
    """
    if name not in AGENTS:
        raise RefusedError(
            f"Unknown agent {name!r}. {did_you_mean(name, AGENTS)}".strip(),
            f"Agents: {', '.join(AGENTS)}.",
            "See them with: rlzoo list",
        )
    return AGENTS[name]
