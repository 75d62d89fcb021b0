"""Constructor arguments of named settings; ``paper`` is the defaults.

Lengths and environments belong to the run: ``configs/obs-dropout/*.yaml``.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # google/brain-tokyo-workshop learntopredict/cartpole: 384 candidates x 16 episodes, p = 5 %.
    "paper": {},
    # Ours: a generation takes a second on a core. Peeks are frequent enough to learn in minutes.
    "cpu": {"pop_size": 64, "n_eval_episodes": 8, "peek_prob": 0.1, "learning_rate": 0.03},
    # The policy alone: every observation is seen.
    "model-free": {
        "pop_size": 64,
        "n_eval_episodes": 8,
        "peek_prob": 1.0,
        "learning_rate": 0.05,
        "world_model": "none",
    },
}
