"""IBAC-SNI on CUDA: acting and updates as graphs do what they do without."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from rlzoo.agents.ibac_sni import IBACSNI

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not th.cuda.is_available(), reason="needs CUDA"),
]


def make(policy: str = "MlpPolicy", env: Any = None, **kwargs: Any) -> IBACSNI:
    settings: dict[str, Any] = {
        "n_steps": 16, "batch_size": 24, "n_epochs": 3, "latent_dim": 32, "sigma_offset": 0.0,
        "anneal": True, "seed": 0, "device": "cuda",
    }  # fmt: skip
    env = env or make_vec_env("CartPole-v1", 4, seed=0)
    return IBACSNI(policy, env, **{**settings, **kwargs})


@pytest.mark.parametrize(
    "kwargs", [{"regulariser": "none"}, {"regulariser": "ib", "sni_lambda": 1.0}]
)
def test_graphs_train_as_eager_calls_do(kwargs: dict[str, Any]) -> None:
    """Without noise both draw the same actions; batches of 24 and of 16 are two graphs."""
    eager, graphs = (make(capture=capture, **kwargs).learn(640) for capture in (False, "auto"))
    assert {name for name, _ in graphs._captured} == {"_act_packed", "_update"}
    assert {size for name, size in graphs._captured if name == "_update"} == {24, 16}
    assert not eager._captured
    for name, tensor in eager.policy.state_dict().items():
        th.testing.assert_close(tensor, graphs.policy.state_dict()[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"regulariser": "ib", "sni_lambda": None},
        {"regulariser": "dropout", "suspend": "frozen"},
        {"regulariser": "batchnorm"},
    ],
)
def test_noise_is_new_in_every_replay(kwargs: dict[str, Any]) -> None:
    model = make(**kwargs).learn(640)
    graph = model._captured["_update", 24]
    first, second = (graph().clone() for _ in range(2))
    assert first.isfinite().all()
    assert not th.equal(first, second)


def test_frames_are_captured_as_vectors_are() -> None:
    """Images in bf16 and channels last, with cutout drawn on the host."""
    env = DummyVecEnv([lambda: FakeImageEnv(4, 64, 64, 3, channel_first=True)] * 4)
    kwargs: dict[str, Any] = {"cutout": True, "bf16": True, "policy_kwargs": {"encoder": "nature"}}
    model = make("CnnPolicy", env, **kwargs).learn(192)
    assert {name for name, _ in model._captured} == {"_act_packed", "_update"}
    assert all(tensor.isfinite().all() for tensor in model.policy.state_dict().values())
    # A rectangle has one colour, which random pixels do not.
    frames = th.as_tensor(model.rollout_buffer.observations).flatten(0, 1)
    assert ((frames[:, :, 1:] == frames[:, :, :-1]).float().mean((1, 2, 3)) > 0.05).any()


def test_a_loaded_agent_captures_anew(tmp_path: Any) -> None:
    make().learn(640).save(tmp_path / "model")
    env = make_vec_env("CartPole-v1", 4, seed=0)
    loaded = IBACSNI.load(tmp_path / "model", env=env, device="cuda")
    assert not loaded._captured
    before = {name: tensor.clone() for name, tensor in loaded.policy.state_dict().items()}
    loaded.learn(640)
    assert any(not th.equal(t, before[n]) for n, t in loaded.policy.state_dict().items())
