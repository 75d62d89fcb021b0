"""BCQ: batch RL with actions generated near those of the data (Fujimoto et al. 2019)."""

from rlzoo.agents.bcq.bcq import BCQ
from rlzoo.agents.bcq.policies import MlpPolicy

__all__ = ["BCQ", "MlpPolicy"]
