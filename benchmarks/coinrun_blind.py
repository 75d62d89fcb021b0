"""Scores of policies that never look at the screen: the floor of every CoinRun table.

    python benchmarks/coinrun_blind.py [--distribution easy] [--episodes 400] [--envs 100]

Every copy plays the same number of episodes from its first one on, and all of them count, so that
short episodes do not count for more. Levels are the whole distribution (``num_levels=0``).
"""

from __future__ import annotations

import argparse

import numpy as np

from rlzoo.core.tasks.scores import PROCGEN
from rlzoo.envs import make_vec
from rlzoo.envs.blind import RightJump
from rlzoo.runs.evaluate import run_episodes
from rlzoo.runs.policies import RandomActions

JUMPS = (0.2, 0.5, 0.8, 1.0)


def main() -> None:
    """Play, and print one row per policy."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--distribution", default="easy", choices=("easy", "hard"))
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--envs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    vec = make_vec("CoinRun", given.envs, distribution=given.distribution, num_levels=0)
    low, high = PROCGEN.ends[f"Coinrun{given.distribution.capitalize()}"]
    policies = {f"right-jump({p})": RightJump(vec.action_space, p) for p in JUMPS}
    policies["random"] = RandomActions(vec.action_space)  # type: ignore[assignment]
    print(f"CoinRun {given.distribution}, {given.episodes} episodes, seed {given.seed}")
    print("| policy | return | standard error | normalised | length | cut by the limit |")
    print("|---|---|---|---|---|---|")
    for name, policy in policies.items():
        policy.set_random_seed(given.seed)
        returns, lengths = run_episodes(policy, vec, given.episodes, given.seed)  # type: ignore[arg-type]
        error = returns.std(ddof=1) / np.sqrt(len(returns))
        print(
            f"| {name} | {returns.mean():.2f} | {error:.2f} | "
            f"{(returns.mean() - low) / (high - low):.2f} | {lengths.mean():.0f} | "
            f"{np.mean(lengths >= 1000):.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
