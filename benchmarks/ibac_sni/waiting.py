"""Does waiting pay? Values, returns and advantages of actions without effect in CoinRun.

    python -m benchmarks.ibac_sni.waiting RUN [--steps 600]

Plays training levels with the policy of every checkpoint of a run of ``ibac-sni`` and compares its
values with the discounted returns that followed (of episodes that ended in the window), and the
mean normalised advantage of Procgen's seven actions without effect with that of all others. A
policy whose values are too high gains by waiting: what it bootstraps from is worth more than what
comes when it goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import yaml
from numpy.typing import NDArray

from rlzoo import IBACSNI, make_vec
from rlzoo.agents.ibac_sni.rewards import CLIP, EPSILON
from rlzoo.core import checkpoint
from rlzoo.core.device import configure_cpu
from rlzoo.core.training_state import restore
from rlzoo.report.tables import markdown_table

IDLE = (4, 9, 10, 11, 12, 13, 14)
N_ENVS, SEED = 64, 123
COLUMNS = ["step", "episodes", "solved", "idle share", "value", "return", "idle", "moving"]


def played(agent: IBACSNI, env: Any, steps: int) -> dict[str, NDArray[Any]]:
    """Play; return arrays ``[steps, n_envs]``: values, scaled rewards, ends, actions, idle."""
    found: dict[str, list[NDArray[Any]]] = {}
    scale = np.sqrt(agent.return_statistics["var"] + EPSILON)
    observations = env.reset()
    for _ in range(steps):
        with th.no_grad():
            log_probs, values = agent.policy.outputs(th.as_tensor(observations), "quiet")
            actions = th.distributions.Categorical(logits=log_probs).sample().numpy()
            idle = log_probs.exp()[:, IDLE].sum(1).numpy()
        observations, rewards, ends, _ = env.step(actions)
        row = {
            "values": values.numpy(), "rewards": np.clip(rewards / scale, -CLIP, CLIP),
            "ends": ends, "actions": actions, "idle": idle,
        }  # fmt: skip
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return {name: np.stack(rows) for name, rows in found.items()}


def returns_of(found: dict[str, NDArray[Any]], gamma: float) -> NDArray[np.float64]:
    """Return discounted returns; NaN in episodes that the window cuts off."""
    returns = np.full(found["rewards"].shape, np.nan)
    later = np.full(found["rewards"].shape[1], np.nan)
    for step in reversed(range(len(returns))):
        ended = found["ends"][step]
        later = found["rewards"][step] + gamma * np.where(ended, 0.0, later)
        returns[step] = later
    return returns


def advantages_of(found: dict[str, NDArray[Any]], gamma: float, lam: float) -> NDArray[np.float64]:
    """Return normalised GAE advantages of all steps but the last."""
    values, alive = found["values"], ~found["ends"]
    advantages = np.zeros(values[:-1].shape)
    last = np.zeros(values.shape[1])
    for step in reversed(range(len(advantages))):
        delta = found["rewards"][step] + gamma * values[step + 1] * alive[step] - values[step]
        advantages[step] = last = delta + gamma * lam * alive[step] * last
    normalised: NDArray[np.float64] = (advantages - advantages.mean()) / advantages.std()
    return normalised


def row_of(agent: IBACSNI, step: int, found: dict[str, NDArray[Any]]) -> list[str]:
    """Return the line of a checkpoint."""
    returns = returns_of(found, agent.gamma)
    known = ~np.isnan(returns)
    advantages = advantages_of(found, agent.gamma, agent.gae_lambda)
    idle = np.isin(found["actions"][:-1], IDLE)
    ends = found["ends"]
    return [
        f"{step:,}", str(int(ends.sum())), f"{(found['rewards'][ends] > 0).mean():.2f}",
        f"{found['idle'].mean():.2f}", f"{found['values'][known].mean():.2f}",
        f"{returns[known].mean():.2f}", f"{advantages[idle].mean():+.4f}",
        f"{advantages[~idle].mean():+.4f}",
    ]  # fmt: skip


def main() -> None:
    """Play every checkpoint and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=600, help="of every one of 64 copies")
    given = parser.parse_args()
    configure_cpu(1)
    settings = yaml.safe_load((given.run / "config.yaml").read_text())["all"]
    seed = json.loads((given.run / "manifest.json").read_text())["seed"]
    levels = settings["run"].get("env_kwargs", {})
    env = make_vec("CoinRun", N_ENVS, SEED, training=True, **levels)
    agent = IBACSNI("CnnPolicy", env, **settings["agent"], seed=seed, device="cpu")
    rows = []
    for folder in sorted((given.run / "checkpoints").glob("ckpt-*")):
        found = checkpoint.load(folder)
        restore(agent, found.parts)
        agent.policy.set_training_mode(False)
        th.manual_seed(SEED)
        rows.append(row_of(agent, found.step, played(agent, env, given.steps)))
    print(markdown_table(COLUMNS, rows, COLUMNS))


if __name__ == "__main__":
    main()
