"""DynaDQN: one Q network, planned with by replay or by a model (arXiv 1906.05243, our study)."""

from rlzoo.agents.dyna_dqn.dyna_dqn import DynaDQN
from rlzoo.agents.dyna_dqn.policies import MlpPolicy

__all__ = ["DynaDQN", "MlpPolicy"]
