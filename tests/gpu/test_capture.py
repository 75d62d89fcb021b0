"""A captured update equals the eager one. Needs CUDA; run by ``make test-gpu``."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from rlzoo.agents.bear import BEAR
from rlzoo.core.capture import Captured, adopt_loaded, make_adam, set_rate, wants_cuda_graph
from rlzoo.data.transitions import Transitions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not th.cuda.is_available(), reason="needs CUDA: there is no GPU here"),
]
STEPS = 30


def make_data(rows=500):
    rng = np.random.default_rng(0)
    states = rng.normal(size=(rows + 1, 3)).astype(np.float32)
    return Transitions(
        observations=states[:-1],
        actions=rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        rewards=rng.normal(size=rows).astype(np.float32),
        terminations=np.arange(rows) % 50 == 49,
        truncations=np.zeros(rows, np.bool_),
        next_observations=states[1:],
        episode_starts=np.arange(0, rows + 1, 50),
        observation_space=spaces.Box(-np.inf, np.inf, (3,)),
        action_space=spaces.Box(-1, 1, (2,)),
    )


def make_bear(capture, **changes):
    arguments = {
        "batch_size": 64,
        "warmup_steps": 10,
        "policy_kwargs": {"net_arch": [32, 32], "vae_arch": [32, 32]},
    }
    return BEAR(
        dataset=make_data(), seed=0, device="cuda", capture=capture, **(arguments | changes)
    )


def tensors_of(model):
    return {**model.policy.state_dict(), "log_alpha": model.log_alpha.detach()}


def snapshot(model):
    return {name: tensor.clone() for name, tensor in tensors_of(model).items()}


def assert_close(start, first, second):
    """Two results agree to a small part of the way that training went; Adam magnifies rounding."""
    for name in first:
        way = (first[name] - start[name]).norm().item()
        assert (first[name] - second[name]).norm().item() <= 0.02 * way + 1e-7, name


def noise_free(monkeypatch):
    """Make both kinds of update draw the same numbers.

    A graph advances the generator by what a whole replay uses, an eager update draw by draw, so
    the streams differ although the distributions do not.
    """
    zeros = {
        "randn": lambda *size, device=None, **_: 0.1 * th.ones(*size, device=device),
        "randn_like": lambda x: 0.1 * th.ones_like(x),
        "randint": lambda high, size, device=None: th.arange(*size, device=device) % high,
    }
    for name, function in zeros.items():
        monkeypatch.setattr(th, name, function)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_target_actor": True, "sequential_updates": True},
        {"bf16": True},
        {"distance": "kl", "dual": "linear"},
        {"mmd_estimator": "u", "sigma": 5.0, "kernel": "gaussian"},
    ],
    ids=str,
)
def test_captured_update_equals_the_eager_one(changes, monkeypatch):
    """Across the end of the warm start, which is a second graph."""
    models = [make_bear(capture, **changes) for capture in (False, True)]
    start = snapshot(models[0])
    noise_free(monkeypatch)
    eager, captured = (model.learn(STEPS) for model in models)
    assert set(captured._captured) == {(True, 64), (False, 64)}
    assert all(graph._graph is not None for graph in captured._captured.values())
    assert_close(start, tensors_of(eager), tensors_of(captured))


def test_each_replay_draws_new_numbers():
    model = make_bear(True).learn(STEPS)
    seen = {float(model._run(model._next_update(64))[0]) for _ in range(5)}
    assert len(seen) == 5


def test_captured_training_repeats_with_its_seed():
    start = snapshot(make_bear(True))
    first, second = (tensors_of(make_bear(True).learn(STEPS)) for _ in range(2))
    assert_close(start, first, second)


def test_learning_rate_schedule_reaches_a_captured_update(monkeypatch):
    def schedule(progress):
        return 1e-3 * progress + 1e-5

    models = [make_bear(capture, learning_rate=schedule) for capture in (False, True)]
    start = snapshot(models[0])
    noise_free(monkeypatch)
    eager, captured = (tensors_of(model.learn(STEPS)) for model in models)
    assert_close(start, eager, captured)


def test_data_and_weights_can_change_after_a_capture(tmp_path):
    model = make_bear(True).learn(STEPS)
    model.save(tmp_path / "model")
    model.set_dataset(make_data(300))
    model.learn(STEPS, reset_num_timesteps=False)
    before = snapshot(model)
    model.set_parameters(str(tmp_path / "model.zip"), device="cuda")
    model.learn(STEPS, reset_num_timesteps=False)
    assert not th.equal(before["critic.layers.0.weight"], model.critic.stacked[0].weight)


@pytest.mark.parametrize(("source", "target"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_agents_move_between_devices(source, target, tmp_path):
    model = BEAR(
        dataset=make_data(), seed=0, device=source, warmup_steps=2, batch_size=32,
        policy_kwargs={"net_arch": [16], "vae_arch": [16]},
    )  # fmt: skip
    model.learn(8).save(tmp_path / "model")
    loaded = BEAR.load(tmp_path / "model", device=target)
    loaded.set_dataset(make_data())
    loaded.learn(8, reset_num_timesteps=False)
    assert loaded.device.type == target
    assert all(tensor.isfinite().all() for tensor in tensors_of(loaded).values())


def test_captured_counts_every_call_as_one_update():
    counter = th.zeros((), device="cuda")
    update = Captured(lambda: counter.add_(1))
    for expected in range(1, 10):
        update()
        assert counter.item() == expected


def test_rates_live_on_the_device_where_a_graph_reads_them():
    weight = th.zeros(3, device="cuda", requires_grad=True)
    optimizer = make_adam([weight], 1e-3, graph=True)
    rate = optimizer.param_groups[0]["lr"]
    set_rate(optimizer, 2e-3)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(2e-3)
    adopt_loaded(optimizer, graph=False)
    assert isinstance(optimizer.param_groups[0]["lr"], float)
    assert wants_cuda_graph("auto", weight.device)
    assert not wants_cuda_graph(False, weight.device)
