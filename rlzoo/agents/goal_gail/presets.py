"""Constructor arguments of the official runs (dingyiming0427/goalgail), the paper and baselines.

What a preset leaves out follows from its mode (:mod:`rlzoo.agents.goal_gail.modes`).
"""

from __future__ import annotations

from typing import Any

_ROOMS: dict[str, Any] = {"gradient_steps": 200}
_FETCH: dict[str, Any] = {"gradient_steps": 40}

PRESETS: dict[str, dict[str, Any]] = {
    "official_fourrooms": {**_ROOMS, "n_disc_updates": 100},
    # Its T is 100: make the environment with max_episode_steps=100.
    "official_fetch": {**_FETCH, "n_disc_updates": 20},
    # As recalled from the paper; its code and its published curves have goal_weight 0.
    "paper": {"goal_weight": 0.9, "expert_relabel_p": 1.0},
    "gail": {"mode": "gail"},
    "her_exact": {"mode": "her", "distance_threshold": "exact"},
    "her_eps": {"mode": "her", "distance_threshold": "env"},
    "her_bc": {"mode": "her_bc"},
    "bc": {"mode": "bc"},
}
