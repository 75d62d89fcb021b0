"""GoalGAIL: updates per second against SB3's DDPG with HerReplayBuffer, and the discriminator's.

    python benchmarks/speed/goal_gail.py [--device cpu] [--rounds 7] [--updates 100]

An update is what SB3's ``train`` does: draw a batch, relabel it, judge it, one step of critic and
actor. Both sides have the same environment, networks and batch sizes, run in one process in
alternating rounds, and the medians of the rounds are compared. SB3 has no demonstrations: the rows
that GoalGAIL takes from them are rows of its buffer there.

The discriminator's step is compared with the usual PyTorch loop on the same data: a penalty that
differentiates twice, networks of the same size, Adam.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3 import DDPG, HerReplayBuffer
from torch import nn
from torch.nn import functional as F  # noqa: N812

from rlzoo import GoalEpisodes, GoalGAIL
from rlzoo.agents.goal_gail.relabel import sample
from rlzoo.core.device import configure_cpu
from rlzoo.envs.make import make_vec

ENV, STEPS, CYCLE = "rlzoo/MiniFourRooms-v0", 3_000, 40


def demonstrations() -> GoalEpisodes:
    """Return random walks: only their sizes matter here."""
    env = gym.make(ENV)
    env.action_space.seed(0)
    episodes = []
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        rows, actions, done = [observation], [], False
        while not done:
            actions.append(env.action_space.sample())
            observation, _, terminated, truncated, _ = env.step(actions[-1])
            rows.append(observation)
            done = terminated or truncated
        stacked = {key: np.stack([row[key] for row in rows]) for key in observation}
        episodes.append({"observations": stacked, "actions": np.stack(actions)})
    return GoalEpisodes.from_episodes(episodes)


def our_agent(device: str, hidden: int, **kwargs: Any) -> GoalGAIL:
    """Return an agent with a filled buffer."""
    return GoalGAIL(
        "MultiInputPolicy", make_vec(ENV, 1), gradient_steps=1, n_disc_updates=1, seed=0,
        distance_threshold="env", buffer_size=100_000, device=device,
        disc_hidden=[hidden, hidden], policy_kwargs={"net_arch": [hidden, hidden]}, **kwargs,
    ).learn(STEPS)  # fmt: skip


def peer(device: str, hidden: int, rows: int) -> DDPG:
    """Return SB3's agent with a filled buffer."""
    return DDPG(
        "MultiInputPolicy", gym.make(ENV), learning_rate=1e-4, buffer_size=100_000,
        learning_starts=STEPS, batch_size=rows, tau=0.05, gamma=0.99, train_freq=(1, "episode"),
        gradient_steps=1, replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs={"n_sampled_goal": 4, "goal_selection_strategy": "future"},
        policy_kwargs={"net_arch": [hidden, hidden], "n_critics": 1}, seed=0, device=device,
    ).learn(STEPS)  # fmt: skip


def our_updates(model: GoalGAIL, rows: int) -> Callable[[int], None]:
    """Return a function that takes updates, in cycles of 40, without the discriminator's."""
    model.n_disc_updates = 0

    def run(n: int) -> None:
        for _ in range(n // CYCLE):
            model.train(CYCLE, rows)

    return run


def our_disc(model: GoalGAIL) -> Callable[[int], None]:
    """Return a function that takes steps of the discriminator."""

    def run(n: int) -> None:
        for _ in range(n):
            model._run("disc", model._update_disc, model.disc_batch_size)

    return run


def plain_disc(model: GoalGAIL, hidden: int) -> Callable[[int], None]:
    """Return the usual loop: the same rows, autograd's gradient for the penalty, plain Adam."""
    demos, replay = model._demo_store, model._replay
    if demos is None:
        raise RuntimeError("no demonstrations")
    width = model._disc_width()
    disc = nn.Sequential(
        nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(),
        nn.Linear(hidden, 1),
    ).to(model.device)  # fmt: skip
    optimizer = th.optim.Adam(disc.parameters(), lr=1e-3)
    n_rows = model.disc_batch_size

    def run(n: int) -> None:
        for _ in range(n):
            expert = model._disc_inputs(sample(demos, n_rows, 0.8, replay.success))
            agent = model._disc_inputs(sample(replay.store, n_rows, 0.0, replay.success))
            u = th.rand(n_rows, 1, device=model.device)
            mixed = (u * agent + (1 - u) * expert).requires_grad_()
            (gradient,) = th.autograd.grad(disc(mixed).sum(), mixed, create_graph=True)
            penalty = ((gradient.square().sum(-1) + 1e-12).sqrt() - 1).square().mean()
            loss = F.softplus(-disc(expert)).mean() + F.softplus(disc(agent)).mean() + 10 * penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def compare(
    names: tuple[str, str], runs: tuple[Callable[[int], None], Callable[[int], None]],
    updates: int, rounds: int, device: str,
) -> None:  # fmt: skip
    """Print updates per second of both, and their ratio: the median over rounds."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for round_ in range(rounds + 1):
        for taken, run in zip(seconds, runs, strict=True):
            started = time.process_time() if device == "cpu" else time.perf_counter()
            run(updates)
            if device != "cpu":
                th.cuda.synchronize()
            ended = time.process_time() if device == "cpu" else time.perf_counter()
            if round_:  # the first is for warming up
                taken.append((ended - started) / updates)
    ours, theirs = (statistics.median(taken) for taken in seconds)
    ratio = statistics.median(t / o for o, t in zip(*seconds, strict=True))
    print(
        f"{names[0]:34s} {1 / ours:8.0f}/s   {names[1]:34s} {1 / theirs:8.0f}/s   {ratio:5.2f} x",
        flush=True,
    )


def main() -> None:
    """Compare, for two sizes of networks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=120)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    threads = configure_cpu(args.threads)
    clock = "seconds of the process" if args.device == "cpu" else "wall seconds"
    print(f"torch {th.__version__}, {args.device}, {threads} threads; per {clock}")
    demos = demonstrations()
    for hidden, rows, shown in ((256, 256, 96), (128, 128, 48)):
        print(f"hidden 2 x {hidden}, {rows} + {shown} rows")
        rest = (args.updates, args.rounds, args.device)
        her = our_agent(args.device, hidden, mode="her", batch_size=rows, demonstrations=demos)
        theirs = peer(args.device, hidden, rows)
        compare(
            ("HER (mode her)", "SB3 DDPG + HerReplayBuffer"),
            (our_updates(her, rows), lambda n, m=theirs, b=rows: m.train(n, b)), *rest,
        )  # fmt: skip
        ours = our_agent(
            args.device, hidden, batch_size=rows, demo_batch_size=shown,
            disc_batch_size=rows, demonstrations=demos,
        )  # fmt: skip
        compare(
            ("goalGAIL, discriminator's reward", f"SB3 DDPG + HER, {rows + shown} rows"),
            (our_updates(ours, rows), lambda n, m=theirs, b=rows + shown: m.train(n, b)), *rest,
        )  # fmt: skip
        compare(
            ("discriminator, closed form", "PyTorch, double backward"),
            (our_disc(ours), plain_disc(ours, hidden)), *rest,
        )  # fmt: skip


if __name__ == "__main__":
    main()
