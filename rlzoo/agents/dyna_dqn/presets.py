"""Constructor arguments of the ways to plan; all share network, optimiser, P and batch.

``rollout_length`` of 5 is ours. ``dyna-q`` and ``dqn-style`` are instances of the paper's table.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "replay": {},
    "forward": {"source": "forward"},
    # The one thing that a buffer cannot do: other actions in old states.
    "forward-policy": {"source": "forward", "actions": "policy"},
    "backward": {"source": "backward"},
    "rollout": {"source": "rollout", "rollout_length": 5},
    "rollout-return": {"source": "rollout", "rollout_length": 5, "rollout_target": "return"},
    "act": {"source": "act"},
    # M = 4 real steps, P = 32 planned transitions: 8 per real step, as in DQN.
    "dqn-style": {"train_freq": 4, "planning_steps": 32, "batch_size": 32},
    # Sutton's Dyna-Q, for numbered states: a table of Q values, one update on the real transition
    # and five on those of the table model.
    "dyna-q": {
        "source": "forward",
        "planning_steps": 5,
        "batch_size": 1,
        "learn_from_real": True,
        "learning_rate": 0.1,
        "learning_starts": 0,
        "target_update_interval": 1,
        "exploration_initial_eps": 0.1,
        "exploration_final_eps": 0.1,
        "max_grad_norm": None,
        "policy_kwargs": {"net_arch": [], "optimizer": "sgd"},
    },
}
