"""Training an online agent into a run folder (first version: SB3's own agents)."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure

from rlzoo.agents.registry import get_agent
from rlzoo.core.device import configure_cpu
from rlzoo.core.seeding import stream
from rlzoo.envs import make_vec


class _Periodic(BaseCallback):
    def __init__(self, folder: Path, env_id: str, seed: int, every: int, episodes: int) -> None:
        super().__init__()
        self.folder, self.every, self.episodes, self.next = folder, every, episodes, every
        self.eval_env = make_vec(env_id, n_envs=min(episodes, 10), seed=stream(seed, "eval"))
        self.curve: list[list[float]] = []
        self.start = time.monotonic()

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.next:
            self.next += self.every
            mean, std = evaluate_policy(
                self.model, self.eval_env, n_eval_episodes=self.episodes, deterministic=True
            )
            self.curve.append([self.num_timesteps, mean, std, time.monotonic() - self.start])
            (self.folder / "checkpoints").mkdir(exist_ok=True)
            self.model.save(self.folder / "checkpoints" / f"model_{self.num_timesteps}")
            self.logger.record("eval/mean_reward", mean)
            (self.folder / "curve.json").write_text(json.dumps(self.curve))
        return True


def train(
    agent: str, env_id: str, steps: int, seed: int, n_envs: int, eval_freq: int,
    eval_episodes: int, run_dir: Path, settings: dict[str, Any],
) -> None:  # fmt: skip
    """Train an SB3 agent."""
    configure_cpu()
    run_dir.mkdir(parents=True)
    env = make_vec(env_id, n_envs=n_envs, seed=seed)
    model = get_agent(agent).load_class()("MlpPolicy", env, seed=seed, device="cpu", **settings)
    # The constructor seeds the environments again with seed + index; the named streams win.
    env._seeds = [stream(seed, "env", index) for index in range(n_envs)]
    model.set_logger(configure(str(run_dir), ["csv", "tensorboard"]))
    callback = _Periodic(run_dir, env_id, seed, eval_freq, eval_episodes)
    model.learn(steps, callback=callback)
    model.save(run_dir / "model.zip")
