"""DER's captured update equals the eager one. Needs CUDA; run by ``make test-gpu``.

The same code runs eagerly on a CPU in tests/unit/test_der_device_replay.py.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from rlzoo.agents.der import DER

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not th.cuda.is_available(), reason="needs CUDA: there is no GPU here"),
]
UPDATES, FILLED = 30, 200


class Images(gym.Env):
    """Random stacks of four frames."""

    observation_space = spaces.Box(0, 255, (4, 30, 30), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.stack = self.np_random.integers(0, 256, (4, 30, 30), np.uint8)
        return self.stack, {}

    def step(self, action: Any) -> Any:
        new = self.np_random.integers(0, 256, (1, 30, 30), np.uint8)
        self.stack = np.concatenate([self.stack[1:], new])
        done = self.np_random.random(2) < 0.05
        return self.stack, float(self.np_random.normal()), bool(done[0]), bool(done[1]), {}


def make(capture: bool, images: bool = False, **changes: Any) -> DER:
    """Return an agent before its first update."""
    arguments: dict[str, Any] = {
        "learning_starts": FILLED, "batch_size": 16, "buffer_size": 300, "n_steps": 3,
        "target_update_interval": 7, "warmup": "uniform", "learning_rate": 1e-3,
    }  # fmt: skip
    if images:
        env: Any = Images()
    else:
        env, arguments["policy_kwargs"] = "CartPole-v1", {"net_arch": [32, 32]}
    policy = "CnnPolicy" if images else "MlpPolicy"
    arguments |= {"seed": 0, "device": "cuda", "capture": capture, **changes}
    model = DER(policy, env, **arguments)
    return model.learn(FILLED)


def train(model: DER, updates: int = UPDATES) -> dict[str, th.Tensor]:
    """Take updates without any step, so that both kinds of agent have the same data."""
    for _ in range(updates):
        model.train(1, 16)
    model._synchronize()
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


def assert_close(start: dict[str, th.Tensor], first: Any, second: Any) -> None:
    """Two results agree to a small part of the way that training went; Adam magnifies rounding."""
    for name in first:
        way = (first[name] - start[name]).norm().item()
        assert (first[name] - second[name]).norm().item() <= 0.02 * way + 1e-7, name


@pytest.fixture
def _no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph and eager updates advance the generators differently."""
    draws = {
        "randn": lambda *size, device=None, **_: 0.1 * th.ones(*size, device=device),
        "rand": lambda *size, device=None, dtype=None: th.full(
            size, 0.3, device=device, dtype=dtype
        ),
    }
    for name, function in draws.items():
        monkeypatch.setattr(th, name, function)
    monkeypatch.setattr(np.random, "random", lambda size=None: np.full(size, 0.3))


@pytest.mark.parametrize(
    ("images", "changes"),
    [
        (False, {}),
        (True, {}),
        (False, {"distributional": False, "double": False, "max_grad_norm": None}),
        (False, {"sigma": None, "priority_exponent": 1.0, "max_grad_norm": 0.1}),
    ],
    ids=["vectors", "images", "values", "clipped"],
)
@pytest.mark.usefixtures("_no_chance")
def test_captured_updates_equal_eager_ones(images: bool, changes: dict[str, Any]) -> None:
    eager, captured = (make(capture, images, **changes) for capture in (False, True))
    start = {name: tensor.clone() for name, tensor in eager.policy.state_dict().items()}
    assert_close(start, train(eager), train(captured))
    assert captured._on_device is not None
    (graph,) = captured._on_device._updates.values()
    assert graph._graph is not None  # type: ignore[attr-defined]
    nodes = [model.replay_buffer.nodes for model in (eager, captured)]  # type: ignore[union-attr]
    assert np.allclose(*nodes, rtol=0.02)


@pytest.mark.parametrize("images", [False, True], ids=["vectors", "images"])
def test_an_update_does_not_wait_for_the_device(images: bool) -> None:
    model = make(True, images)
    train(model, 10)
    updates = model._on_device
    assert updates is not None
    th.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            updates.run(16, 0.5)
    finally:
        th.cuda.set_sync_debug_mode("default")


def test_each_replay_draws_another_batch_and_other_noise() -> None:
    model = make(True)
    train(model, 10)
    seen = set()
    for _ in range(5):
        model.train(1, 16)
        assert model._on_device is not None
        assert model._on_device._sums is not None
        seen.add(float(model._on_device._sums[0]))
        model._on_device.read()
    assert len(seen) == 5


def test_training_with_steps_in_between() -> None:
    """Rows, priorities, noise and the learning rate reach a graph that was captured before."""
    model = make(True, images=True, learning_rate=lambda progress: 1e-3 * progress)
    model.learn(FILLED + 400)  # the ring wraps
    buffer, updates = model.replay_buffer, model._on_device
    assert buffer is not None
    assert updates is not None
    host, device = buffer.sum_tree.get(np.arange(300)), updates.replay.priorities.cpu().numpy()
    assert np.allclose(host, device)
    assert (host > 0).sum() > 250
    assert len(np.unique(host)) > 100
    for name, rows in updates.replay._rows.items():
        assert np.array_equal(rows.cpu().numpy(), getattr(buffer, name)), name
    rate = model.policy.optimizer.param_groups[0]["lr"]
    assert isinstance(rate, th.Tensor)
    assert float(rate) == pytest.approx(1e-3 * model._current_progress_remaining, abs=1e-9)


def test_agents_move_between_devices(tmp_path: Any) -> None:
    model = make(True)
    train(model)
    model.save(tmp_path / "model")
    for device in ("cpu", "cuda"):
        loaded = DER.load(tmp_path / "model", env=gym.make("CartPole-v1"), device=device)
        loaded.learn(FILLED + 20, reset_num_timesteps=False)
        assert all(p.isfinite().all() for p in loaded.policy.parameters())
        assert (loaded._on_device is not None) == (device == "cuda")
