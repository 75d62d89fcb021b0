"""Naive batch RL: SB3's TD3 and SAC on a fixed data set, what BEAR's paper warns of."""

from rlzoo.agents.batch.sac import SACBatch
from rlzoo.agents.batch.td3 import TD3Batch

__all__ = ["SACBatch", "TD3Batch"]
