"""IBAC-SNI: information bottleneck and selective noise injection (Igl et al. 2019)."""

from rlzoo.agents.ibac_sni.ibac_sni import IBACSNI
from rlzoo.agents.ibac_sni.policies import CnnPolicy, MlpPolicy

__all__ = ["IBACSNI", "CnnPolicy", "MlpPolicy"]
