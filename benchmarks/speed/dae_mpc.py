"""Decisions per second of DAE-MPC: ours, mbrl-lib's CEM, and the floor, in the same run.

    python benchmarks/speed/dae_mpc.py --mbrl-venv .venvs/mbrl [--device cuda] [--rounds 5]

A decision is a whole plan: all iterations, all candidates, the full horizon, with the paper page's
sizes and one network of three layers of 200. mbrl-lib has the same model size, one particle and
no denoiser, so its time stands against ours without one. Two floors, fp32, measured in the same
run: the floating-point operations of a decision at the rate of its largest matmul ("best rate"),
and its matmuls one after the other with nothing in between ("own shapes"). Rounds alternate
between all variants; the table shows the median round. mbrl-lib runs in its own virtual
environment, which the script makes when it is missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from rlzoo.agents.dae_mpc.planners import PlannerSettings
from rlzoo.agents.dae_mpc.policies import MpcPolicy, PlanSpec
from rlzoo.core.device import configure_cpu
from rlzoo.core.mpc_tasks import MpcTask, register_task

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Size:
    """One size of the page, section 3 and 7."""

    observations: int
    actions: int
    candidates: int
    horizon: int
    iterations: int
    hidden: tuple[int, ...]


SIZES = {
    "small": Size(3, 1, 128, 15, 3, (64, 64)),
    "cartpole": Size(5, 1, 400, 25, 5, (200, 200, 200)),
    "cheetah": Size(18, 6, 500, 30, 5, (200, 200, 200)),
}


def reward(o: th.Tensor, a: th.Tensor, following: th.Tensor) -> th.Tensor:
    """Return a velocity less a control cost, as HalfCheetah's."""
    return following[..., 0] - 0.1 * a.square().sum(-1)


class Ours:
    """Decisions of the policy for ``n_envs`` environments; the time is per environment."""

    def __init__(self, name: str, size: Size, device: str, n_envs: int = 1, **spec: Any) -> None:
        box = spaces.Box(-np.inf, np.inf, (size.observations,), np.float32)
        actions = spaces.Box(-1, 1, (size.actions,), np.float32)
        settings = PlannerSettings(
            "cem", size.candidates, size.candidates // 10, size.iterations, epsilon=0.0
        )
        full = PlanSpec(f"speed/{name}", False, size.horizon, settings, **spec)
        th.manual_seed(0)
        self.policy = MpcPolicy(box, actions, lambda _: 1e-3, size.hidden, spec=full).to(device)
        self.policy.requires_grad_(False)
        self.obs = th.zeros(n_envs, size.observations, device=device)
        self.state: Any = None
        self.n_envs = n_envs
        self.seconds(4)

    def seconds(self, decisions: int) -> float:
        """Return the time of that many decisions."""
        started = time.perf_counter()
        for _ in range(decisions):  # the state comes back to the host, which waits for the device
            _, self.state = self.policy.decide(self.obs, self.state, None, deterministic=False)
        return (time.perf_counter() - started) / self.n_envs


class Worker:
    """mbrl-lib in a process of its own environment."""

    def __init__(self, python: Path, sizes: dict[str, Any]) -> None:
        worker = Path(__file__).with_name("mbrl_worker.py")
        self.process = subprocess.Popen(
            [str(python), str(worker)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, cwd=worker.parent,
        )  # fmt: skip
        self._send(sizes)
        self.versions = self._receive()
        self.seconds(2)

    def _send(self, value: Any) -> None:
        if self.process.stdin is None:
            raise RuntimeError("no pipe to mbrl-lib")
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()

    def _receive(self) -> Any:
        if self.process.stdout is None:
            raise RuntimeError("no pipe from mbrl-lib")
        while True:
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError("mbrl-lib stopped: run mbrl_worker.py by hand to see why")
            if line.startswith(("{", *"0123456789")):
                return json.loads(line)

    def seconds(self, decisions: int) -> float:
        """Return the time of that many decisions."""
        self._send(decisions)
        return float(self._receive())

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


class Matmuls:
    """Floor: nothing but matmuls of the given shapes, in fp32, into blocks that are kept."""

    def __init__(self, shapes: list[tuple[Shape, int]], device: str) -> None:
        self.factors = [
            (th.randn(a, b, device=device), th.randn(b, c, device=device),
             th.empty(a, c, device=device), times)
            for (a, b, c), times in shapes
        ]  # fmt: skip

    def seconds(self, decisions: int) -> float:
        """Return the time of that many passes over all shapes."""
        started = time.perf_counter()
        for _ in range(decisions):
            for a, b, out, times in self.factors:
                for _ in range(times):
                    th.mm(a, b, out=out)
        if self.factors[0][0].is_cuda:
            th.cuda.synchronize()
        return time.perf_counter() - started


def matmuls(size: Size, dae: bool) -> list[tuple[Shape, int]]:
    """Return the matmuls of a decision, and how often each is done."""
    width, n = size.observations + size.actions, size.candidates
    steps = size.iterations * size.horizon
    model = pairwise((width, *size.hidden, size.observations))
    found = [((n, a, b), steps) for a, b in model]
    if dae:
        shapes = pairwise((width, *size.hidden, width))
        found += [((n * size.horizon, a, b), size.iterations) for a, b in shapes]
    return found


def flops(shapes: list[tuple[Shape, int]]) -> int:
    """Return the floating-point operations: one product and one sum per term."""
    return sum(2 * a * b * c * times for (a, b, c), times in shapes)


def make_environment(venv: Path) -> Path:
    """Make mbrl-lib's environment if it is missing; return its interpreter."""
    python = venv / "bin" / "python"
    if not python.exists():
        print(f"making {venv} for mbrl-lib …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        version = th.__version__.partition("+")[0]
        subprocess.run([*pip, f"torch=={version}", "numpy", "tqdm", "matplotlib"], check=True)
        # Its pinned hydra 1.0 does not import on Python 3.11.
        needed = ["hydra-core>=1.3", "termcolor", "tensorboard", "imageio", "gymnasium"]
        subprocess.run([*pip, *needed], check=True)
        subprocess.run([*pip, "--no-deps", "mbrl==0.2.0"], check=True)
    return python


def compare(name: str, args: argparse.Namespace, python: Path | None) -> None:
    """Time all variants at one size and print a table."""
    size, device = SIZES[name], args.device
    register_task(MpcTask(f"speed/{name}", size.observations, size.actions, reward))
    both, model = matmuls(size, True), matmuls(size, False)
    largest = max((shape for shape, _ in both), key=lambda s: s[0] * s[1] * s[2])
    n_largest = max(1, round(flops(both) / flops([(largest, 1)])))
    # What each is compared with: the floors with or without the denoiser.
    floors = {
        "floor, best rate": Matmuls([(largest, n_largest)], device),
        "floor, own shapes": Matmuls(both, device),
        "floor without DAE": Matmuls(model, device),
    }  # fmt: skip
    graph = device.startswith("cuda")
    variants: dict[str, Any] = {
        **floors,
        "rlzoo": Ours(name, size, device, alpha=0.1),
        "rlzoo, 8 environments": Ours(name, size, device, 8, alpha=0.1),
        "rlzoo bf16": Ours(name, size, device, alpha=0.1, bf16=True),
        "rlzoo without DAE": Ours(name, size, device, dae=False),
        "rlzoo without DAE bf16": Ours(name, size, device, dae=False, bf16=True),
    }
    if graph:
        variants["rlzoo, captured"] = Ours(name, size, device, alpha=0.1, capture=True)
    if python is not None:
        sizes = {
            "observations": size.observations, "actions": size.actions,
            "candidates": size.candidates, "horizon": size.horizon,
            "iterations": size.iterations, "hidden": list(size.hidden),
            "threads": th.get_num_threads(), "device": device,
        }  # fmt: skip
        variants["mbrl-lib without DAE"] = Worker(python, sizes)
    times: dict[str, list[float]] = {label: [] for label in variants}
    for _ in range(args.rounds):
        for label, variant in variants.items():
            times[label].append(variant.seconds(args.decisions) / args.decisions)
    if python is not None:
        variants["mbrl-lib without DAE"].close()
    median = {label: statistics.median(values) for label, values in times.items()}
    print(
        f"\n{name}: {size}\n{flops(both) / 1e9:.2f} GFLOP per decision, "
        f"{flops(model) / 1e9:.2f} without DAE; {th.get_num_threads()} threads, {device}"
    )
    heads = ("ms", "min", "max", "per s", "of floor", "x mbrl-lib")
    print(f"{'':22}" + "".join(f"{head:>11}" for head in heads))
    peer = median.get("mbrl-lib without DAE")
    for label, seconds in median.items():
        alone = "without" in label
        floor = median["floor without DAE" if alone else "floor, own shapes"]
        ratio = f"{peer / seconds:.2f}" if peer and alone else "-"
        low, high = min(times[label]), max(times[label])
        print(
            f"{label:22}{1e3 * seconds:11.2f}{1e3 * low:11.2f}{1e3 * high:11.2f}"
            f"{1 / seconds:11.1f}{floor / seconds:11.0%}{ratio:>11}"
        )


def main() -> None:
    """Parse the options and compare at every size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mbrl-venv", type=Path, help="its environment, made when missing")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--decisions", type=int, default=3, help="per round and variant")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    args = parser.parse_args()
    configure_cpu(args.threads)
    python = make_environment(args.mbrl_venv) if args.mbrl_venv else None
    for name in args.sizes:
        compare(name, args, python)


if __name__ == "__main__":
    main()
