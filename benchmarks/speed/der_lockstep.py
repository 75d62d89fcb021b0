"""DER in lock-step: updates per second of S agents together, against S agents one after the other.

    python benchmarks/speed/der_lockstep.py [--device cuda] [--agents 1 2 4] [--rounds 5]

Atari-sized frames as in der.py. "One after the other" are S ordinary agents of one process, each
with its own update: on CUDA its own graph. An update here is one of one agent: S agents in
lock-step take S at once. Games have 18, 6, 9 and 3 actions in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch as th
from der import Frames, seconds, synchronized
from gymnasium import spaces

from rlzoo import DER
from rlzoo.agents.der.lockstep import LockStep
from rlzoo.core.device import configure_cpu

ACTIONS = (18, 6, 9, 3)


def agent(i: int, args: argparse.Namespace) -> DER:
    """Return an agent with a buffer that is filled at random."""
    env = Frames()
    env.action_space = spaces.Discrete(ACTIONS[i % len(ACTIONS)])
    kwargs: dict[str, Any] = {"warmup": "uniform", "learning_starts": args.filled}
    model = DER("CnnPolicy", env, buffer_size=args.buffer, seed=i, device=args.device, **kwargs)
    return model.learn(args.filled)


class Separate:
    """Agents one after the other."""

    def __init__(self, n: int, args: argparse.Namespace) -> None:
        self.agents = [agent(i, args) for i in range(n)]

    def update(self, n: int) -> None:
        """Take updates of each."""
        for _ in range(n):
            for model in self.agents:
                model.train(1, model.batch_size)


class Together:
    """Agents in lock-step."""

    def __init__(self, n: int, args: argparse.Namespace) -> None:
        self.steps = LockStep([agent(i, args) for i in range(n)])
        self.context = self.steps.stacked()
        self.context.__enter__()

    def update(self, n: int) -> None:
        """Take updates of all."""
        for _ in range(n):
            self.steps.train(1)


def main() -> None:
    """Parse the options, time both in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--agents", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=20, help="of each agent, per round")
    parser.add_argument("--filled", type=int, default=1_000, help="transitions in each buffer")
    parser.add_argument("--buffer", type=int, default=5_000)
    args = parser.parse_args()
    configure_cpu(args.threads)
    clock: Callable[[], float] = synchronized
    if args.device == "cpu":
        clock = time.process_time if args.threads == 1 else time.perf_counter
    print(f"torch {th.__version__}, {th.get_num_threads()} threads, {args.device}")
    print("updates per second of all agents, median (and range) of rounds")
    for n in args.agents:
        variants = {"separate": Separate(n, args), "lock-step": Together(n, args)}
        rates: dict[str, list[float]] = {name: [] for name in variants}
        for variant in variants.values():
            variant.update(5)  # a graph is captured at the fourth
        for _ in range(args.rounds):
            for name, variant in variants.items():
                rates[name].append(n / seconds(variant.update, args.updates, clock))
        median = {name: statistics.median(found) for name, found in rates.items()}
        shown = "  ".join(
            f"{name} {median[name]:8.1f} ({min(found):.1f} to {max(found):.1f})"
            for name, found in rates.items()
        )
        print(f"S={n}: {shown}  ratio {median['lock-step'] / median['separate']:.2f}")


if __name__ == "__main__":
    main()
