"""DAE-MPC: planning through a learnt model that stays on familiar ground (arXiv 1903.11981)."""

from rlzoo.agents.dae_mpc.dae_mpc import DAEMPC
from rlzoo.agents.dae_mpc.policies import MpcPolicy

__all__ = ["DAEMPC", "MpcPolicy"]
