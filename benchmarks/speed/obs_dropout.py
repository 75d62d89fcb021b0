"""Observational dropout: steps per second of a population, against a loop and against matmuls.

    python benchmarks/speed/obs_dropout.py [--rounds 3] [--device cpu] [--candidates 384]

Three things do the same steps of the swing-up with the published networks: the population as one
tensor program; a NumPy loop, one candidate and episode at a time, as the published code does in
every worker; and the batched matrix products of the networks alone, which are the floor. On a CPU
the time is that of the process, over all its threads, so that other jobs on the machine count for
little: the rates are per core-second, and several cores multiply them at best. Only steps of
episodes that still run are counted.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th

from rlzoo.agents.observational_dropout.population import Networks, play
from rlzoo.agents.observational_dropout.stacked import laid_out, mlp, size_of, split
from rlzoo.core.device import configure_cpu
from rlzoo.core.swingup import DT, LIMIT, CartPoleSwingUp, accelerations

PEEK_PROB = 0.05


def rate(work: Callable[[], int], cuda: bool) -> float:
    """Return steps per second."""
    clock = time.perf_counter if cuda else time.process_time
    started = clock()
    steps = work()
    if cuda:
        th.cuda.synchronize()
    return steps / (clock() - started)


def loop(networks: Networks, vector: np.ndarray[Any, Any], n_steps: int, seed: int) -> int:
    """Play one episode in NumPy; return its steps."""
    cut = size_of(networks.model.shapes)
    model, policy = [
        [(w[0].numpy(), b[0, 0].numpy()) for w, b in split(th.from_numpy(part)[None], shapes)]
        for part, shapes in (
            (vector[:cut], networks.model.shapes),
            (vector[cut:], networks.policy_shapes),
        )
    ]
    rng = np.random.default_rng(seed)
    x, v, angle, spin = CartPoleSwingUp().start(rng).tolist()
    believed, total = np.zeros(5), 0.0
    for step in range(n_steps):
        seen = np.array([x, v, math.cos(angle), math.sin(angle), spin])
        used = seen if step == 0 or rng.random() < PEEK_PROB else believed
        hidden = used
        for w, b in policy:
            hidden = np.tanh(hidden @ w + b)
        push = float(hidden[0])
        (w1, b1), (w2, b2) = model
        cart, pole = np.tanh(np.append(used[1:], push) @ w1 + b1) @ w2 + b2
        turned = math.atan2(used[3], used[2]) + used[4] * DT
        believed = np.array(
            [used[0] + used[1] * DT, used[1] + cart * DT, math.cos(turned), math.sin(turned),
             used[4] + pole * DT]
        )  # fmt: skip
        faster, swing = accelerations(v, math.cos(angle), math.sin(angle), spin, push)
        x, angle = x + v * DT, angle + spin * DT
        v, spin = v + faster * DT, spin + swing * DT
        total += (1 + math.cos(angle)) / 2 * math.cos(math.pi / 2 * x / LIMIT)
        if abs(x) > LIMIT:
            break
    return step + 1


def main() -> None:
    """Parse the options, time everything in turns, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--candidates", type=int, default=384)
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--steps", type=int, default=200, help="per episode")
    args = parser.parse_args()
    configure_cpu(args.threads)
    cuda, device = args.device != "cpu", th.device(args.device)
    task = CartPoleSwingUp(max_steps=args.steps)
    networks = Networks.make("cartpole", 5, 1, [10], None)
    vectors = 0.1 * th.randn(args.candidates, networks.n_parameters, device=device)
    layers = laid_out(split(vectors, (*networks.model.shapes, *networks.policy_shapes)))
    inputs = [
        th.randn(args.candidates, args.episodes, w.shape[1], device=device) for w, _ in layers
    ]

    def population() -> int:
        rng = np.random.default_rng(0)
        scores = play(task, networks, vectors, args.episodes, PEEK_PROB, rng)
        return 0 if scores is None else int(scores.lengths.sum())

    def products() -> int:
        for _ in range(args.steps):
            for layer, x in zip(layers, inputs, strict=True):
                mlp([layer], x, bounded=False)
        return args.candidates * args.episodes * args.steps

    def loops() -> int:
        few = vectors[:10].cpu().double().numpy()
        return sum(loop(networks, vector, args.steps, i) for i, vector in enumerate(few))

    works = {"population": population, "NumPy loop": loops, "matmuls alone": products}
    rates: dict[str, list[float]] = {name: [] for name in works}
    population()
    for _ in range(args.rounds):
        for name, work in works.items():
            rates[name].append(rate(work, cuda))
    size = f"{args.candidates} x {args.episodes} episodes of {args.steps} steps, p = {PEEK_PROB}"
    print(f"torch {th.__version__}, {th.get_num_threads()} threads, {args.device}, {size}")
    median = {name: statistics.median(found) for name, found in rates.items()}
    for name, found in rates.items():
        print(f"{name:14}{median[name]:14,.0f} steps/s ({min(found):,.0f} to {max(found):,.0f})")
    ours = median["population"]
    print(f"population / NumPy loop    {ours / median['NumPy loop']:8.1f}x")
    print(f"population / matmuls alone {ours / median['matmuls alone']:8.2f}x")


if __name__ == "__main__":
    main()
