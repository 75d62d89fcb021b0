"""goalGAIL, arXiv 1906.05838."""

from rlzoo.agents.goal_gail.goal_gail import GoalGAIL as GoalGAIL
from rlzoo.agents.goal_gail.policies import GoalPolicy as GoalPolicy

__all__ = ["GoalGAIL", "GoalPolicy"]
