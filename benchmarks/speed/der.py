"""DER on Atari-sized frames: updates and whole steps per second, against public peers.

    git clone https://github.com/Kaixhin/Rainbow .peers/rainbow
    python benchmarks/speed/der.py --kaixhin .peers/rainbow [--rounds 5]

Peers: Kaixhin/Rainbow with its data-efficient options, imported as it is (commit 1745b18 runs with
current torch and NumPy), and SB3's DQN with the same convolutions and a hidden layer of 512. All
run in one process, in alternating rounds, on the same frames: random ones, from an environment that
costs next to nothing, so that a whole step (action, environment, storage, update) is the agent's.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from rlzoo import DER
from rlzoo.core.device import configure_cpu

ACTIONS, BUFFER, FILLED, EPISODE = 18, 20_000, 3_000, 200


class Frames(gym.Env[Any, Any]):
    """Stacks of four random frames, drawn beforehand; an episode takes 200 steps."""

    observation_space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = spaces.Discrete(ACTIONS)

    def __init__(self) -> None:
        self.frames = np.random.default_rng(0).integers(0, 256, (64, 1, 84, 84), np.uint8)
        self.steps = 0

    def _push(self) -> Any:
        self.steps += 1
        new = self.frames[self.steps % 64]
        self.stack = np.concatenate([self.stack[1:], new])
        return self.stack

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin with blank frames."""
        self.stack = np.zeros((4, 84, 84), np.uint8)
        return self._push(), {}

    def step(self, action: Any) -> Any:
        """Show the next frame, whatever the action."""
        return self._push(), float(self.steps % 7 == 0), self.steps % EPISODE == 0, False, {}


class Convolutions(BaseFeaturesExtractor):
    """The data-efficient encoder, for SB3."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space, 576)
        self.layers = nn.Sequential(
            nn.Conv2d(4, 32, 5, 5), nn.ReLU(), nn.Conv2d(32, 64, 5, 5), nn.ReLU(), nn.Flatten()
        )

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Map ``[B, 4, 84, 84]`` to ``[B, 576]``."""
        features: th.Tensor = self.layers(observations)
        return features


class SB3Like:
    """An SB3 agent: ours, or SB3's DQN."""

    def __init__(self, cls: type[Any], device: str, **kwargs: Any) -> None:
        self.model = cls(
            "CnnPolicy", Frames(), learning_rate=1e-4, buffer_size=BUFFER, batch_size=32,
            learning_starts=FILLED, train_freq=1, seed=0, device=device, **kwargs,
        )  # fmt: skip
        self.model.learn(FILLED + 5)

    def update(self, n: int) -> None:
        """Take updates."""
        self.model.train(n, 32)

    def step(self, n: int) -> None:
        """Take whole steps."""
        self.model.learn(n, reset_num_timesteps=False, log_interval=None)


class Kaixhin:
    """Kaixhin/Rainbow, data-efficient options of its README."""

    def __init__(self, folder: Path, device: str) -> None:
        sys.path.insert(0, str(folder))
        agent, memory = (importlib.import_module(name) for name in ("agent", "memory"))
        args = SimpleNamespace(
            atoms=51, V_min=-10, V_max=10, batch_size=32, multi_step=20, discount=0.99,
            norm_clip=10, architecture="data-efficient", hidden_size=256, noisy_std=0.1,
            history_length=4, learning_rate=1e-4, adam_eps=1.5e-4, priority_weight=0.4,
            priority_exponent=0.5, model=None, device=th.device(device),
        )  # fmt: skip
        self.device, self.env = args.device, Frames()
        self.agent = agent.Agent(args, SimpleNamespace(action_space=lambda: ACTIONS))
        self.memory = memory.ReplayMemory(args, BUFFER)
        self.state = self._tensor(self.env.reset()[0])
        self._collect(FILLED, learn=False)

    def _tensor(self, stack: Any) -> th.Tensor:
        # As its env.py: floats in [0, 1].
        return th.tensor(stack, dtype=th.float32, device=self.device).div_(255)

    def _collect(self, n: int, learn: bool) -> None:
        # The loop of its main.py.
        for _ in range(n):
            if learn:
                self.agent.reset_noise()
            action = self.agent.act(self.state) if learn else 0
            stack, reward, done, *_ = self.env.step(action)
            self.memory.append(self.state, action, reward, done)
            if learn:
                self.memory.priority_weight = min(self.memory.priority_weight + 1e-6, 1)
                self.agent.learn(self.memory)
            self.state = self._tensor(self.env.reset()[0] if done else stack)

    def update(self, n: int) -> None:
        """Take updates."""
        for _ in range(n):
            self.agent.learn(self.memory)

    def step(self, n: int) -> None:
        """Take whole steps."""
        self._collect(n, learn=True)


def seconds(work: Callable[[int], None], n: int, clock: Callable[[], float]) -> float:
    """Return the time per unit of work."""
    started = clock()
    work(n)
    return (clock() - started) / n


def synchronized() -> float:
    """Wall-clock time when the GPU has finished."""
    th.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Parse the options, time everything in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kaixhin", type=Path, help="a checkout of Kaixhin/Rainbow")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=30, help="per round and variant")
    args = parser.parse_args()
    configure_cpu(args.threads)
    dqn = {"features_extractor_class": Convolutions, "net_arch": [512]}
    variants: dict[str, Any] = {
        "rlzoo DER": SB3Like(DER, args.device),
        "SB3 DQN": SB3Like(DQN, args.device, gradient_steps=1, policy_kwargs=dqn),
    }
    if args.kaixhin:
        variants["Kaixhin"] = Kaixhin(args.kaixhin, args.device)
    kinds = ("update", "step")
    # One thread on a CPU: its own time, which other jobs of the machine do not lengthen as much.
    clock = time.process_time if args.threads == 1 else time.perf_counter
    clock = clock if args.device == "cpu" else synchronized
    times: dict[tuple[str, str], list[float]] = {(v, k): [] for v in variants for k in kinds}
    for _ in range(args.rounds):
        for kind in kinds:
            for name, variant in variants.items():
                spent = seconds(getattr(variant, kind), args.updates, clock)
                times[name, kind].append(spent)
    median = {key: statistics.median(values) for key, values in times.items()}
    smallest = {key: min(values) for key, values in times.items()}
    print(
        f"torch {th.__version__}, {th.get_num_threads()} threads, {args.device}, {ACTIONS} actions"
    )
    print(f"{'':12}{'ms/update':>12}{'min':>8}{'max':>8}{'ms/step':>12}{'min':>8}{'max':>8}")
    for name in variants:
        line = f"{name:12}"
        for kind in kinds:
            spent = times[name, kind]
            line += (
                f"{1e3 * median[name, kind]:12.2f}{1e3 * min(spent):8.2f}{1e3 * max(spent):8.2f}"
            )
        print(line)
    for peer in [name for name in variants if name != "rlzoo DER"]:
        for word, of in (("medians", median), ("smallest", smallest)):
            ratios = [of[peer, k] / of["rlzoo DER", k] for k in kinds]
            found = f"{ratios[0]:.2f}x per update, {ratios[1]:.2f}x per step"
            print(f"{peer} / rlzoo DER, {word}: {found}")


if __name__ == "__main__":
    main()
