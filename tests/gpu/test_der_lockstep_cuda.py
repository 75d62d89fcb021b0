"""Lock-step with its update as a CUDA graph equals the eager one. Run by ``make test-gpu``.

The same code runs eagerly on a CPU in tests/unit/test_der_lockstep.py, against single agents.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from rlzoo.agents.der import DER
from rlzoo.agents.der.lockstep import LockStep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not th.cuda.is_available(), reason="needs CUDA: there is no GPU here"),
]
FILLED, UPDATES = 200, 30


class Game(gym.Env):
    """Random vectors or stacks of four frames, whatever the actions."""

    def __init__(self, n_actions: int, images: bool) -> None:
        self.images, self.action_space = images, spaces.Discrete(n_actions)
        self.observation_space = (
            spaces.Box(0, 255, (4, 30, 30), np.uint8)
            if images
            else spaces.Box(-np.inf, np.inf, (3,), np.float32)
        )

    def _observe(self) -> Any:
        if not self.images:
            return self.np_random.normal(size=3).astype(np.float32)
        new = self.np_random.integers(0, 256, (1, 30, 30), np.uint8)
        self.stack = np.concatenate([self.stack[1:], new])
        return self.stack

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.stack = np.zeros((4, 30, 30), np.uint8)
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        ends = self.np_random.random(2) < 0.05
        reward = float(self.np_random.normal())
        return self._observe(), reward, bool(ends[0]), bool(ends[1]), {}


def make(n_actions: int, seed: int, images: bool, capture: bool, **changes: Any) -> DER:
    arguments: dict[str, Any] = {
        "learning_starts": FILLED, "batch_size": 16, "buffer_size": 300, "n_steps": 3,
        "target_update_interval": 7, "warmup": "uniform", "learning_rate": 1e-3,
        "policy_kwargs": {"net_arch": [32] if images else [32, 32]},
    }  # fmt: skip
    arguments |= {"seed": seed, "device": "cuda", "capture": capture, **changes}
    policy = "CnnPolicy" if images else "MlpPolicy"
    return DER(policy, Game(n_actions, images), **arguments)


def lock_step(images: bool, capture: bool, **changes: Any) -> LockStep:
    """Return agents before their first update."""
    agents = [make(n, seed, images, capture, **changes) for n, seed in ((2, 1), (5, 2), (3, 3))]
    return LockStep(agents).learn(FILLED)


@pytest.mark.parametrize(
    ("images", "changes"),
    [
        (False, {}),
        (True, {}),
        (True, {"image_shift": 2}),
        (False, {"distributional": False, "double": False, "max_grad_norm": None}),
        (False, {"sigma": None, "priority_exponent": 1.0, "max_grad_norm": 0.1}),
    ],
    ids=["vectors", "images", "shifted", "values", "clipped"],
)
def test_captured_updates_equal_eager_ones(images: bool, changes: dict[str, Any]) -> None:
    """Random numbers are drawn outside of the graph, so both take the same."""
    both = [lock_step(images, capture, **changes) for capture in (False, True)]
    start = [
        {name: t.clone() for name, t in agent.policy.state_dict().items()}
        for agent in both[0].agents
    ]
    for steps in both:
        with steps.stacked():
            for _ in range(UPDATES):
                steps._online_noise.advance()
                steps.train(1)
            (update,) = steps._updates._updates.values()
            assert (getattr(update, "_graph", None) is not None) == (steps is both[1])
    for first, eager, captured in zip(start, both[0].agents, both[1].agents, strict=True):
        after = captured.policy.state_dict()
        for name, tensor in eager.policy.state_dict().items():
            way = (tensor - first[name]).norm().item()
            assert (tensor - after[name]).norm().item() <= 0.02 * way + 1e-7, name
        nodes = [agent.replay_buffer.nodes for agent in (eager, captured)]  # type: ignore[union-attr]
        assert np.allclose(*nodes, rtol=0.02)


@pytest.mark.parametrize("images", [False, True], ids=["vectors", "images"])
def test_an_update_does_not_wait_for_the_device(images: bool) -> None:
    steps = lock_step(images, True)
    with steps.stacked():
        steps.train(10)
        th.cuda.set_sync_debug_mode("error")
        try:
            steps.train(10)
        finally:
            th.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("images", [False, True], ids=["vectors", "images"])
def test_learning_with_steps_in_between(images: bool, tmp_path: Any) -> None:
    """Rows, noise and the learning rate reach the graph; agents are ordinary ones afterwards."""
    steps = lock_step(images, True, learning_rate=lambda progress: 1e-3 * progress + 1e-4)
    steps.learn(FILLED + 300)  # the ring wraps
    for i, agent in enumerate(steps.agents):
        rates = [float(group["lr"]) for group in agent.policy.optimizer.param_groups]
        assert rates == pytest.approx([1e-4], rel=0.05)
        assert len(np.unique(agent.replay_buffer.nodes)) > 100  # type: ignore[union-attr]
        agent.save(tmp_path / f"{i}.zip")
        env = Game((2, 5, 3)[i], images)
        for device in ("cpu", "cuda"):
            loaded = DER.load(tmp_path / f"{i}.zip", env=env, device=device)
            observation = agent.get_env().reset()  # type: ignore[union-attr]
            ours, theirs = (x.predict(observation, deterministic=True) for x in (agent, loaded))
            assert np.array_equal(ours[0], theirs[0])
            loaded.learn(FILLED + 10, reset_num_timesteps=False)
            assert all(p.isfinite().all() for p in loaded.policy.parameters())
        agent.learn(10, reset_num_timesteps=False)
