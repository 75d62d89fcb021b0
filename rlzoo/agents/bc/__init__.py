"""Behaviour cloning: imitate the policy that collected the data."""

from rlzoo.agents.bc.bc import BC
from rlzoo.agents.bc.policies import MlpPolicy

__all__ = ["BC", "MlpPolicy"]
