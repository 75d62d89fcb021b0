"""Times d3rlpy's BEAR in d3rlpy's own environment; driven by ``bear.py`` over a pipe.

Reads one JSON line with the sizes, then one line with a number of updates at a time; answers each
with one JSON line of seconds. Needs d3rlpy 2.8 and nothing of rlzoo.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time

import d3rlpy
import gymnasium
import numpy as np
import torch
from d3rlpy.dataset import MDPDataset
from d3rlpy.models.encoders import VectorEncoderFactory


def main() -> None:
    """Build the agent, then time batches of updates on demand."""
    sizes = json.loads(sys.stdin.readline())
    torch.set_num_threads(sizes["threads"])
    torch.set_flush_denormal(True)
    if sizes["keep_large_blocks"]:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 30)
        libc.mallopt(-1, 1 << 30)
    rng = np.random.default_rng(0)
    n, obs, act = sizes["rows"], sizes["observations"], sizes["actions"]
    ends = np.zeros(n, np.float32)
    ends[99::100] = 1
    dataset = MDPDataset(
        observations=rng.standard_normal((n, obs)).astype(np.float32),
        actions=rng.uniform(-1, 1, (n, act)).astype(np.float32),
        rewards=rng.standard_normal((n, 1)).astype(np.float32),
        terminals=ends,
    )
    hidden, vae = VectorEncoderFactory(sizes["hidden"]), VectorEncoderFactory(sizes["vae"])
    config = d3rlpy.algos.BEARConfig(
        actor_encoder_factory=hidden, critic_encoder_factory=hidden, imitator_encoder_factory=vae,
        batch_size=sizes["batch"], n_critics=2, n_action_samples=100, n_target_samples=10,
        n_mmd_action_samples=4, mmd_kernel="laplacian", mmd_sigma=20.0, warmup_steps=0,
        compile_graph=sizes["compile"],
    )  # fmt: skip
    agent = config.create(device=sizes["device"])
    agent.build_with_dataset(dataset)
    print(
        json.dumps(
            {"d3rlpy": d3rlpy.__version__, "torch": torch.__version__, "gym": gymnasium.__version__}
        ),
        flush=True,
    )
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            # What d3rlpy's fit() does per update: sample a batch, update.
            agent.update(dataset.sample_transition_batch(sizes["batch"]))
        if sizes["device"].startswith("cuda"):
            torch.cuda.synchronize()
        print(json.dumps(time.perf_counter() - started), flush=True)


if __name__ == "__main__":
    main()
