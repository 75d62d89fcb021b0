"""What a planner may know about a task: its reward, what a model should look at, when it ends.

A model-based agent finds these by the id of its environment. ``register_task`` adds one, from
anywhere; a saved agent keeps the name only, so the task has to be registered again before it is
loaded.
"""

from rlzoo.core.mpc_tasks.base import FeatureFn, MpcTask, RewardFn, TerminationFn
from rlzoo.core.mpc_tasks.known import find_task, get_task, known_tasks, register_task

__all__ = [
    "FeatureFn",
    "MpcTask",
    "RewardFn",
    "TerminationFn",
    "find_task",
    "get_task",
    "known_tasks",
    "register_task",
]
