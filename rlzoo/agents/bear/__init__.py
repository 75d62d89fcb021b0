"""BEAR: batch RL with the actor held to the support of the data (Kumar et al. 2019)."""

from rlzoo.agents.bear.bear import BEAR
from rlzoo.agents.bear.policies import MlpPolicy

__all__ = ["BEAR", "MlpPolicy"]
