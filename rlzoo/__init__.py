"""rlzoo: a reinforcement-learning algorithm zoo, papers as true Stable-Baselines3 agents.

Public names are loaded on first use, so that ``import rlzoo`` and ``rlzoo --help`` stay fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "BC": "rlzoo.agents.bc",
    "BCQ": "rlzoo.agents.bcq",
    "BEAR": "rlzoo.agents.bear",
    "DAEMPC": "rlzoo.agents.dae_mpc",
    "DER": "rlzoo.agents.der",
    "DynaDQN": "rlzoo.agents.dyna_dqn",
    "GoalEpisodes": "rlzoo.core.goal_episodes",
    "GoalGAIL": "rlzoo.agents.goal_gail",
    "IBACSNI": "rlzoo.agents.ibac_sni",
    "ObsDropoutPPO": "rlzoo.agents.observational_dropout",
    "ObservationalDropout": "rlzoo.agents.observational_dropout",
    "SACBatch": "rlzoo.agents.batch",
    "TD3Batch": "rlzoo.agents.batch",
    "Transitions": "rlzoo.data",
    "load_dataset": "rlzoo.data",
    "make_vec": "rlzoo.envs",
}

if TYPE_CHECKING:
    from rlzoo.agents.batch import SACBatch as SACBatch
    from rlzoo.agents.batch import TD3Batch as TD3Batch
    from rlzoo.agents.bc import BC as BC
    from rlzoo.agents.bcq import BCQ as BCQ
    from rlzoo.agents.bear import BEAR as BEAR
    from rlzoo.agents.dae_mpc import DAEMPC as DAEMPC
    from rlzoo.agents.der import DER as DER
    from rlzoo.agents.dyna_dqn import DynaDQN as DynaDQN
    from rlzoo.agents.goal_gail import GoalGAIL as GoalGAIL
    from rlzoo.agents.ibac_sni import IBACSNI as IBACSNI
    from rlzoo.agents.observational_dropout import ObsDropoutPPO as ObsDropoutPPO
    from rlzoo.agents.observational_dropout import ObservationalDropout as ObservationalDropout
    from rlzoo.core.goal_episodes import GoalEpisodes as GoalEpisodes
    from rlzoo.data import Transitions as Transitions
    from rlzoo.data import load_dataset as load_dataset
    from rlzoo.envs import make_vec as make_vec

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'rlzoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
