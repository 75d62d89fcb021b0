"""BEAR updates per second: ours, d3rlpy's, and the floor, one after the other in the same run.

    python benchmarks/speed/bear.py --d3rlpy-venv .venvs/d3rlpy [--device cuda] [--rounds 5]

Two floors, both fp32 and measured in the same run: the floating-point operations of one update at
the best rate that a matmul of 256-wide layers reaches here ("best rate"), and the matmuls of the
update one after the other with nothing in between ("own shapes"). Rounds alternate between
all variants, so that a slow minute of the machine hits each of them; the table shows the median
round. d3rlpy runs in its own virtual environment, which the script makes when it is missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from rlzoo import BEAR, Transitions
from rlzoo.core.device import configure_cpu

SIZES = {"Hopper": (11, 3), "HalfCheetah": (17, 6)}
ROWS, BATCH, HIDDEN, N, P = 200_000, 256, 256, 4, 10


Shape = tuple[int, int, int]


def matmuls(obs: int, act: int, vae: int) -> list[Shape]:
    """Return every matmul of one update after warm-up as ``(rows, inner, columns)``."""

    def forward(rows: int, *widths: int) -> list[Shape]:
        return [(rows, a, b) for a, b in pairwise(widths)]

    def weights(rows: int, *widths: int) -> list[Shape]:
        return [(a, rows, b) for a, b in pairwise(widths)]

    def inputs(rows: int, *widths: int) -> list[Shape]:
        return [(rows, b, a) for a, b in pairwise(widths)]

    def train(rows: int, *widths: int) -> list[Shape]:
        # The gradient with respect to the input of the first layer is not wanted.
        back = inputs(rows, *widths)[1:]
        return forward(rows, *widths) + weights(rows, *widths) + back

    actor = (obs, HIDDEN, HIDDEN, 2 * act)
    critic = (obs + act, HIDDEN, HIDDEN, 1)
    encoder, decoder = (obs + act, vae, vae, 4 * act), (obs + 2 * act, vae, vae, act)
    return [
        *train(BATCH, *encoder),
        *train(BATCH, *decoder),
        *inputs(BATCH, *decoder)[:1],  # on to the latent
        *forward(BATCH, *actor),  # target: the actor on s', both critics on p actions
        *(2 * forward(BATCH * P, *critic)),
        *(2 * train(BATCH, *critic)),
        *forward(BATCH * N, *decoder),  # the behaviour's samples
        *train(BATCH, *actor),  # the actor, through both critics to the action
        *(2 * (forward(BATCH, *critic) + inputs(BATCH, *critic))),
    ]


def flops(shapes: list[Shape]) -> int:
    """Return the floating-point operations of matmuls: one product and one sum per term."""
    return sum(2 * a * b * c for a, b, c in shapes)


def data(obs: int, act: int) -> Transitions:
    """Return random transitions of the given sizes."""
    rng = np.random.default_rng(0)
    ends = np.zeros(ROWS, np.bool_)
    ends[99::100] = True
    observations = rng.standard_normal((ROWS, obs)).astype(np.float32)
    return Transitions(
        observations=observations,
        actions=rng.uniform(-1, 1, (ROWS, act)).astype(np.float32),
        rewards=rng.standard_normal(ROWS).astype(np.float32),
        terminations=ends,
        truncations=np.zeros(ROWS, np.bool_),
        next_observations=np.roll(observations, -1, axis=0),
        episode_starts=np.arange(0, ROWS + 1, 100),
        observation_space=spaces.Box(-np.inf, np.inf, (obs,), np.float32),
        action_space=spaces.Box(-1, 1, (act,), np.float32),
    )


class Ours:
    """rlzoo's BEAR on the same sizes, after warm-up."""

    def __init__(self, dataset: Transitions, vae: int, device: str, **options: Any) -> None:
        self.agent = BEAR(
            "MlpPolicy", None, dataset, warmup_steps=0, device=device, seed=0,
            policy_kwargs={"vae_arch": [vae, vae]}, **options,
        )  # fmt: skip
        # learn() sets up the logger that train() records into.
        self.agent.learn(20, log_interval=None)

    def seconds(self, updates: int) -> float:
        """Return the time of that many updates."""
        started = time.perf_counter()
        self.agent.train(updates, BATCH)
        if self.agent.device.type == "cuda":
            th.cuda.synchronize()
        return time.perf_counter() - started


class D3rlpy:
    """d3rlpy's BEAR in a process of its own environment."""

    def __init__(self, python: Path, sizes: dict[str, Any]) -> None:
        worker = Path(__file__).with_name("d3rlpy_worker.py")
        self.process = subprocess.Popen(
            [str(python), str(worker)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, cwd=worker.parent,
        )  # fmt: skip
        self._send(sizes)
        self.versions = self._receive()
        self.seconds(5)

    def _send(self, value: Any) -> None:
        if self.process.stdin is None:
            raise RuntimeError("no pipe to d3rlpy")
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()

    def _receive(self) -> Any:
        if self.process.stdout is None:
            raise RuntimeError("no pipe from d3rlpy")
        while True:
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError("d3rlpy stopped: run d3rlpy_worker.py by hand to see why")
            if line.startswith(("{", *"0123456789")):
                return json.loads(line)

    def seconds(self, updates: int) -> float:
        """Return the time of that many updates."""
        self._send(updates)
        return float(self._receive())

    def close(self) -> None:
        """End the process."""
        self.process.kill()


class Matmuls:
    """Floor: nothing but matmuls of the given shapes, in fp32."""

    def __init__(self, shapes: list[Shape], device: str) -> None:
        self.factors = [
            (th.randn(a, b, device=device), th.randn(b, c, device=device)) for a, b, c in shapes
        ]

    def seconds(self, updates: int) -> float:
        """Return the time of that many passes over all shapes."""
        started = time.perf_counter()
        for _ in range(updates):
            for a, b in self.factors:
                a @ b
        if self.factors[0][0].is_cuda:
            th.cuda.synchronize()
        return time.perf_counter() - started


def make_environment(venv: Path) -> Path:
    """Make d3rlpy's environment if it is missing; return its interpreter."""
    python = venv / "bin" / "python"
    if not python.exists():
        print(f"making {venv} for d3rlpy …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        # torch first: d3rlpy would take the newest one, which may be another build.
        version = th.__version__.partition("+")[0]
        subprocess.run([*pip, f"torch=={version}"], check=True)
        subprocess.run([*pip, "d3rlpy==2.8.1"], check=True)
    return python


def compare(name: str, vae: int, args: argparse.Namespace, python: Path | None) -> None:
    """Time all variants at one size and print a table."""
    obs, act = SIZES[name]
    dataset = data(obs, act)
    shapes = matmuls(obs, act, vae)
    operations = flops(shapes)
    # The largest square-ish matmul of the update runs at the best rate that torch reaches here.
    best: Shape = (BATCH * N, HIDDEN, HIDDEN)
    device = args.device
    variants: dict[str, Any] = {
        "floor, best rate": Matmuls([best] * max(1, round(operations / flops([best]))), device),
        "floor, own shapes": Matmuls(shapes, device),
        "rlzoo": Ours(dataset, vae, device, capture=False),
        "rlzoo bf16": Ours(dataset, vae, device, capture=False, bf16=True),
    }
    if device.startswith("cuda"):
        variants["rlzoo capture"] = Ours(dataset, vae, device, capture=True)
        variants["rlzoo capture bf16"] = Ours(dataset, vae, device, capture=True, bf16=True)
    peers = []
    if python is not None:
        sizes = {
            "rows": 20_000, "observations": obs, "actions": act, "batch": BATCH,
            "hidden": [HIDDEN, HIDDEN], "vae": [vae, vae], "threads": th.get_num_threads(),
            "device": device, "compile": False, "keep_large_blocks": False,
        }  # fmt: skip
        variants["d3rlpy"] = D3rlpy(python, sizes)
        peers.append(variants["d3rlpy"])
        if device.startswith("cuda"):
            variants["d3rlpy graph"] = D3rlpy(python, {**sizes, "compile": True})
            peers.append(variants["d3rlpy graph"])
    times: dict[str, list[float]] = {label: [] for label in variants}
    for _ in range(args.rounds):
        for label, variant in variants.items():
            times[label].append(variant.seconds(args.updates) / args.updates)
    for peer in peers:
        peer.close()

    median = {label: statistics.median(values) for label, values in times.items()}
    floor, peer_time = median["floor, best rate"], median.get("d3rlpy")
    own = median["floor, own shapes"]
    print(
        f"\n{name} ({obs}, {act}), behaviour model {vae}-{vae}: "
        f"{operations / 1e9:.2f} GFLOP per update, "
        f"matmul {operations / floor / 1e9:.0f} GFLOP/s, {th.get_num_threads()} threads, {device}"
    )
    heads = "".join(f"{head:>9}" for head in ("min", "max", "of best", "of own", "x d3rlpy"))
    print(f"{'':20} {'ms/update':>10}{heads}")
    for label, seconds in median.items():
        ratio = f"{peer_time / seconds:8.2f}x" if peer_time else "        -"
        low, high = min(times[label]), max(times[label])
        print(
            f"{label:20} {1e3 * seconds:10.2f} {1e3 * low:8.2f} {1e3 * high:8.2f} "
            f"{floor / seconds:8.0%} {own / seconds:8.0%} {ratio}"
        )


def main() -> None:
    """Parse the options and compare at every size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--d3rlpy-venv", type=Path, help="its environment, made when missing")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=50, help="per round and variant")
    parser.add_argument("--vae", type=int, nargs="+", default=[256, 750])
    args = parser.parse_args()
    configure_cpu(args.threads)
    python = make_environment(args.d3rlpy_venv) if args.d3rlpy_venv else None
    for name in SIZES:
        for vae in args.vae:
            compare(name, vae, args, python)


if __name__ == "__main__":
    main()
