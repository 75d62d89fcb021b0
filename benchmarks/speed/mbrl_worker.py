"""Times mbrl-lib's CEM planner in its own environment; driven by ``dae_mpc.py`` over a pipe.

Reads one JSON line with the sizes, then one line with a number of decisions at a time; answers each
with one JSON line of seconds. Needs mbrl 0.2 and nothing of rlzoo.
"""

from __future__ import annotations

import json
import sys
import time
import types

import mbrl
import numpy as np
import omegaconf
import torch
from mbrl.models import GaussianMLP, ModelEnv, OneDTransitionRewardModel
from mbrl.planning import TrajectoryOptimizer


class Spaces:
    """What ModelEnv asks of an environment."""

    def __init__(self, n_observations: int, n_actions: int) -> None:
        self.observation_space = types.SimpleNamespace(shape=(n_observations,))
        self.action_space = types.SimpleNamespace(shape=(n_actions,))


def reward(actions: torch.Tensor, observations: torch.Tensor) -> torch.Tensor:
    """Return a velocity less a control cost, as HalfCheetah's."""
    return (observations[:, 0] - 0.1 * actions.square().sum(1)).view(-1, 1)


def never(actions: torch.Tensor, observations: torch.Tensor) -> torch.Tensor:
    """Return that no episode ends."""
    return torch.zeros(len(observations), 1, dtype=torch.bool, device=observations.device)


def main() -> None:
    """Build model and planner, then time decisions on demand."""
    sizes = json.loads(sys.stdin.readline())
    torch.set_num_threads(sizes["threads"])
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    n_obs, n_actions, device = sizes["observations"], sizes["actions"], sizes["device"]
    network = GaussianMLP(
        n_obs + n_actions, n_obs, device, num_layers=len(sizes["hidden"]), ensemble_size=1,
        hid_size=sizes["hidden"][0], activation_fn_cfg={"_target_": "torch.nn.SiLU"},
        propagation_method="random_model",
    )  # fmt: skip
    model = OneDTransitionRewardModel(network, normalize=True, learned_rewards=False)
    env = ModelEnv(Spaces(n_obs, n_actions), model, never, reward, torch.Generator(device))
    config = omegaconf.OmegaConf.create(
        {
            "_target_": "mbrl.planning.CEMOptimizer", "num_iterations": sizes["iterations"],
            "elite_ratio": 0.1, "population_size": sizes["candidates"], "alpha": 0.1,
            "device": device, "lower_bound": "???", "upper_bound": "???",
            "return_mean_elites": True,
        }
    )  # fmt: skip
    ones = np.ones(n_actions)
    planner = TrajectoryOptimizer(config, -ones, ones, sizes["horizon"])
    state = np.zeros(n_obs, np.float32)
    print(json.dumps({"mbrl": mbrl.__version__, "torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            planner.optimize(lambda plans: env.evaluate_action_sequences(plans, state, 1))
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        print(json.dumps(time.perf_counter() - started), flush=True)


if __name__ == "__main__":
    main()
