"""DER: data-efficient Rainbow (van Hasselt, Hessel, Aslanides 2019)."""

from rlzoo.agents.der.der import DER
from rlzoo.agents.der.policies import CnnPolicy, MlpPolicy

__all__ = ["DER", "CnnPolicy", "MlpPolicy"]
