"""IBAC-SNI on CoinRun: frames per second of collecting and learning, against SB3's PPO.

    python benchmarks/speed/ibac_sni.py [--encoder impala-half] [--rounds 5] [--threads 2]

All contenders have a vector of CoinRun environments (envpool) of their own, of the same kind, and
take turns in one process. A unit of work is one rollout with its update, three epochs in eight
minibatches. SB3's PPO has the same network: the trunk and the latent layer as its feature
extractor, linear heads, fp32. rlzoo's ``ppo`` is run in fp32, and in bf16 where the device has
instructions for it; IB + SNI (twelve noise samples, as published) in the faster one. The last lines
are the share of the time that the environment takes, against envpool without any adapter.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import envpool
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from rlzoo import IBACSNI
from rlzoo.agents.ibac_sni.encoders import make_image_trunk
from rlzoo.core.device import configure_cpu, has_bf16
from rlzoo.envs import make_vec

LATENT, N_MINIBATCHES, N_EPOCHS = 256, 8, 3
AIM, AIM_NOISE = 1.5, 0.10


class Trunk(BaseFeaturesExtractor):
    """An encoder of rlzoo and the latent layer, for SB3, which divides images by 255 itself."""

    def __init__(self, space: spaces.Box, encoder: Any) -> None:
        super().__init__(space, LATENT)
        trunk = make_image_trunk(encoder, space.shape, norm=False)
        self.layers = nn.Sequential(trunk.module, nn.Linear(trunk.n_features, LATENT), nn.ReLU())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Map ``[B, 3, 64, 64]`` to ``[B, 256]``."""
        features: th.Tensor = self.layers(observations)
        return features


def contenders(given: argparse.Namespace) -> dict[str, Any]:
    """Return the agents, by name."""
    sizes = {
        "n_steps": given.n_steps,
        "batch_size": given.n_envs * given.n_steps // N_MINIBATCHES,
        "n_epochs": N_EPOCHS,
        "learning_rate": 5e-4,
        "gamma": 0.999,
        "seed": 0,
        "device": given.device,
    }

    def ours(regulariser: str, bf16: bool) -> Any:
        return IBACSNI(
            "CnnPolicy", vector(given), regulariser=regulariser, bf16=bf16,
            policy_kwargs={"encoder": given.encoder}, **sizes,
        )  # fmt: skip

    extractor = {
        "features_extractor_class": Trunk,
        "features_extractor_kwargs": {"encoder": given.encoder},
        "net_arch": [],
    }
    agents = {
        "SB3 PPO": PPO(
            "CnnPolicy", vector(given), policy_kwargs=extractor, clip_range_vf=0.2,
            ent_coef=0.01, **sizes,
        ),
        "rlzoo ppo": ours("none", False),
    }  # fmt: skip
    fast = has_bf16(th.device(given.device))
    if fast:
        agents["rlzoo ppo, bf16"] = ours("none", True)
    return {**agents, "rlzoo ib-sni": ours("ib", fast)}


def vector(given: argparse.Namespace) -> Any:
    """Return CoinRun environments on one thread of their own."""
    return make_vec("CoinRun", given.n_envs, training=True, num_threads=1)


def env_seconds(given: argparse.Namespace) -> float:
    """Return the time per frame of envpool alone, with random actions."""
    plain = envpool.make_gymnasium(
        "CoinrunEasy-v0", num_envs=given.n_envs, seed=0, num_levels=200, num_threads=1
    )
    plain.reset()
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 15, (given.n_steps, given.n_envs), np.int32)
    return seconds(lambda: [plain.step(row) for row in actions]) / actions.size


def seconds(work: Callable[[], Any]) -> float:
    """Return the time of one call."""
    if th.cuda.is_available():
        th.cuda.synchronize()
    started = time.perf_counter()
    work()
    if th.cuda.is_available():
        th.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    """Run the rounds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--encoder", default="impala-half", help="of both: impala, nature, ...")
    parser.add_argument("--n-envs", type=int, default=32)
    parser.add_argument("--n-steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    configure_cpu(given.threads)
    frames = given.n_envs * given.n_steps
    agents = contenders(given)
    for agent in agents.values():  # memory, lazy set-up, and CUDA graphs
        agent.learn(2 * frames, log_interval=None)
    times: dict[str, list[float]] = {name: [] for name in agents}
    env_times = []
    for _ in range(given.rounds):
        for name, agent in agents.items():
            learn = agent.learn
            spent = seconds(lambda: learn(frames, log_interval=None, reset_num_timesteps=False))  # noqa: B023
            times[name].append(spent / frames)
        env_times.append(env_seconds(given))
    print(
        f"torch {th.__version__}, {th.get_num_threads()} threads, {given.device}, {given.encoder}, "
        f"{given.n_envs} environments x {given.n_steps} steps, {given.rounds} rounds"
    )
    print(f"{'':20}{'frames/s':>10}{'min':>8}{'max':>8}")
    for name, spent in {**times, "envpool alone": env_times}.items():
        rates = [1 / value for value in spent]
        print(f"{name:20}{statistics.median(rates):10.0f}{min(rates):8.0f}{max(rates):8.0f}")

    def ratio(slow: str, fast: str) -> float:
        pairs = zip(times[slow], times[fast], strict=True)
        return statistics.median(a / b for a, b in pairs)

    same = [name for name in agents if name.startswith("rlzoo ppo")]
    for name in same:
        print(f"{name} against SB3 PPO: {ratio('SB3 PPO', name):.2f}x (aim {AIM})")
    cost = ratio("rlzoo ib-sni", same[-1]) - 1
    print(
        f"IB + SNI costs {100 * cost:.0f} % over {same[-1]} (aim at most {100 * AIM_NOISE:.0f} %)"
    )
    shares = [env / spent for env, spent in zip(env_times, times[same[-1]], strict=True)]
    print(f"envpool alone takes {100 * statistics.median(shares):.0f} % of {same[-1]}")


if __name__ == "__main__":
    main()
