"""Networks: parameter counts, initial weights, layouts, bf16; SB3's contract on images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from ibac_testing import IMAGE, cnn, mlp
from stable_baselines3.common.vec_env import DummyVecEnv, VecTransposeImage

from rlzoo.agents.ibac_sni import IBACSNI
from rlzoo.agents.ibac_sni.bottleneck import kl_to_prior
from rlzoo.agents.ibac_sni.encoders import Residual, initialise
from rlzoo.agents.ibac_sni.policies import IBACPolicy
from rlzoo.errors import RefusedError

GRID = spaces.Box(0, 255, (3, 11, 11), np.uint8)


def count(policy: IBACPolicy) -> int:
    return sum(p.numel() for p in policy.parameters())


@pytest.mark.parametrize(
    ("n_actions", "regulariser", "expected"),
    [(15, "ib", 1_150_800), (7, "ib", 1_148_744), (15, "none", 626_256), (7, "none", 624_200)],
)
def test_parameters_of_impala(n_actions: int, regulariser: str, expected: int) -> None:
    assert count(cnn("impala", n_actions=n_actions, regulariser=regulariser)) == expected


@pytest.mark.parametrize(
    ("encoder", "space", "features"),
    [
        ("impala", IMAGE, 2048),
        ("impala-half", IMAGE, 1024),
        ("impala-large", IMAGE, 256),
        ("nature", IMAGE, 512),
        ("grid", GRID, 288),
    ],
)
def test_features_of_the_encoders(encoder: str, space: spaces.Box, features: int) -> None:
    policy = cnn(encoder, space, latent_dim=64)
    assert policy.latent.in_features == features
    assert policy.latent.out_features == 128
    log_probs, values = policy.outputs(th.zeros(2, *space.shape, dtype=th.uint8), "off")
    assert log_probs.shape == (2, 15)
    assert values.shape == (2,)


def test_parameters_of_the_grid_network() -> None:
    convolutions = (3 * 4 + 1) * 16 + (16 * 4 + 1) * 32 + (32 * 4 + 1) * 32
    expected = convolutions + 289 * 128 + 65 * 7 + 65
    assert count(cnn("grid", GRID, 7, latent_dim=64)) == expected


def test_the_nature_network_is_sb3s() -> None:
    from stable_baselines3.common.torch_layers import NatureCNN

    policy, sb3 = cnn("nature", regulariser="none"), NatureCNN(IMAGE, 512)
    pairs = zip(policy.trunk.parameters(), sb3.parameters(), strict=True)
    assert all(a.shape == b.shape for a, b in pairs)
    policy.trunk.load_state_dict(
        dict(zip(policy.trunk.state_dict(), sb3.state_dict().values(), strict=True))
    )
    x = th.rand(2, 3, 64, 64)
    th.testing.assert_close(policy.trunk(x), sb3(x), rtol=1e-4, atol=1e-5)


def test_initial_weights() -> None:
    for policy in (cnn("impala"), mlp()):
        biases = [p for n, p in policy.named_parameters() if n.endswith("bias")]
        assert all((b == 0).all() for b in biases)
    image = cnn("impala")
    norms = image.action_net.weight.norm(dim=1)
    th.testing.assert_close(norms, th.full((15,), 0.01))
    th.testing.assert_close(image.value_net.weight.norm(), th.tensor(1.0))
    fan_in, fan_out = 3 * 9, 16 * 9
    bound = (6 / (fan_in + fan_out)) ** 0.5
    assert 0.9 * bound < image.trunk[0].weight.abs().max() <= bound
    grid = cnn("grid", GRID, 7, latent_dim=64)
    for layer in (grid.latent, grid.action_net, grid.value_net):
        th.testing.assert_close(layer.weight.norm(dim=1), th.ones(layer.out_features))
    before = grid.trunk[0].weight.clone()
    initialise(grid, "grid")  # convolutions stay as torch makes them
    assert th.equal(before, grid.trunk[0].weight)


def test_a_residual_block_adds_two_convolutions_to_its_input() -> None:
    th.manual_seed(0)
    block, x = Residual(4, norm=False), th.randn(2, 4, 5, 5)
    expected = x + block.second(block.first(x.relu()).relu())
    th.testing.assert_close(block(x.clone()), expected)
    assert not th.allclose(expected, x, atol=0.1)


def test_scales_of_images_and_activations() -> None:
    frames = th.randint(0, 256, (2, *IMAGE.shape), dtype=th.uint8)
    assert cnn("nature").inputs(frames).max() <= 1
    cells = th.randint(0, 256, (2, *GRID.shape), dtype=th.uint8)
    grid = cnn("grid", GRID)
    assert th.equal(grid.inputs(cells), cells.float())
    assert (grid.activation, cnn("nature").activation) == (th.tanh, th.relu)


def test_small_images_are_refused() -> None:
    with pytest.raises(RefusedError, match="too small"):
        cnn("nature", spaces.Box(0, 255, (3, 20, 20), np.uint8))
    with pytest.raises(RefusedError, match="CnnPolicy cannot take"):
        cnn("nature", spaces.Box(-1, 1, (4,), np.float32))


# ----------------------------------------------------------- layouts and types


def branches_of(policy: IBACPolicy) -> tuple[dict[str, th.Tensor], th.Tensor]:
    """Return what the update sees of a fixed batch, and the gradient of all of it."""
    generator = th.Generator().manual_seed(2)
    frames = th.randint(0, 256, (16, *IMAGE.shape), dtype=th.uint8, generator=generator)
    th.manual_seed(3)
    found = policy.evaluate_branches(frames, th.arange(16) % 15)
    assert found.quiet is not None
    assert found.noisy is not None
    assert found.latent is not None
    values = {
        "quiet": found.quiet.log_prob,
        "noisy": found.noisy.log_prob,
        "entropy": found.noisy.entropy,
        "value": found.quiet.values,
        "kl": kl_to_prior(found.latent, "bits"),
    }
    assert {v.dtype for v in values.values()} == {th.float32}
    loss = (found.quiet.log_prob + found.noisy.log_prob + found.quiet.values.square()).mean()
    (loss + 1e-3 * values["kl"].mean()).backward()
    gradient = th.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    return {n: v.detach() for n, v in values.items()}, gradient


@pytest.mark.parametrize("encoder", ["impala-half", "nature"])
def test_channels_last_changes_nothing(encoder: str) -> None:
    plain, gradient = branches_of(cnn(encoder, channels_last=False, sigma_offset=0.0))
    turned, other = branches_of(cnn(encoder, channels_last=True, sigma_offset=0.0))
    for name, value in plain.items():
        th.testing.assert_close(value, turned[name], rtol=1e-4, atol=1e-5)
    th.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("encoder", ["impala-half", "nature"])
def test_bf16_is_close(encoder: str) -> None:
    plain, gradient = branches_of(cnn(encoder, sigma_offset=0.0))
    rough, other = branches_of(cnn(encoder, sigma_offset=0.0, bf16=True))
    for name in ("quiet", "noisy", "entropy"):
        th.testing.assert_close(plain[name], rough[name], rtol=0, atol=5e-3)
    th.testing.assert_close(plain["kl"], rough["kl"], rtol=1e-2, atol=0)
    th.testing.assert_close(plain["value"], rough["value"], rtol=0.05, atol=0.05)
    assert not th.equal(plain["value"], rough["value"])
    cosine = th.nn.functional.cosine_similarity(gradient, other, dim=0)
    assert cosine > 0.999
    assert other.norm().item() == pytest.approx(gradient.norm().item(), rel=0.02)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(("asked", "expected"), [("auto", None), (True, True), (False, False)])
def test_bf16_auto_asks_the_processor(
    monkeypatch: pytest.MonkeyPatch, native: bool, asked: Any, expected: bool | None
) -> None:
    monkeypatch.setattr(th.cpu, "_is_avx512_bf16_supported", lambda: native)
    model = IBACSNI("MlpPolicy", "CartPole-v1", bf16=asked, device="cpu")
    assert model.policy.noise.bf16 is (native if expected is None else expected)


# ------------------------------------------------- SB3's contract, with images


class Colours(gym.Env[Any, Any]):
    """Noisy frames, channels last, whose colour says which action pays; ends after 5 to 9 steps."""

    def __init__(self, size: int = 16) -> None:
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(5, 10))
        return self._look(), {}

    def _look(self) -> Any:
        self.colour = int(self.np_random.integers(3))
        frame = self.np_random.integers(0, 100, self.observation_space.shape, np.uint8)  # type: ignore[arg-type]
        frame[..., self.colour] += 100
        return frame

    def step(self, action: Any) -> Any:
        reward = float(action == self.colour)
        self.left -= 1
        return self._look(), reward, self.left == 0, False, {}


def agent(n_envs: int = 4, **kwargs: Any) -> IBACSNI:
    settings: dict[str, Any] = {
        "n_steps": 32, "batch_size": 64, "latent_dim": 16, "n_noise_samples": 2, "seed": 0,
        "device": "cpu", "learning_rate": 3e-3, "gamma": 0.0,
        "policy_kwargs": {"encoder": "impala-half"},
    }  # fmt: skip
    env = DummyVecEnv([Colours] * n_envs)
    return IBACSNI("CnnPolicy", env, **{**settings, **kwargs})


def test_it_learns_from_images_that_sb3_turns_around() -> None:
    model = agent(policy_kwargs={"encoder": "grid"}, learning_rate=1e-3).learn(4_000)
    assert isinstance(model.get_env(), VecTransposeImage)
    assert model.observation_space.shape == (3, 16, 16)
    env, right = Colours(), []
    for seed in range(60):
        frame, _ = env.reset(seed=seed)
        action, _ = model.predict(frame, deterministic=True)  # channels last, one image
        assert action.shape == ()
        right.append(action == env.colour)
    assert np.mean(right) > 0.75  # chance: 1/3


def test_saved_and_trained_on_alike(tmp_path: Path) -> None:
    model = agent().learn(256)
    model.save(tmp_path / "model")
    loaded = IBACSNI.load(tmp_path / "model", env=DummyVecEnv([Colours] * 4), device="cpu")
    assert loaded.return_statistics == model.return_statistics
    np.testing.assert_array_equal(loaded.discounted_returns, model.discounted_returns)
    frames = np.random.default_rng(0).integers(0, 256, (9, 3, 16, 16), np.uint8)
    tensor = th.from_numpy(frames)
    for mode in ("off", "quiet"):
        pairs = zip(model.policy.outputs(tensor, mode), loaded.policy.outputs(tensor, mode))  # noqa: B905
        assert all(th.equal(a, b) for a, b in pairs)
    for copy in (model, loaded):
        copy.set_random_seed(7)
        copy._last_obs = None
        copy.learn(256, reset_num_timesteps=False)
    for name, tensor in model.policy.state_dict().items():
        assert th.equal(tensor, loaded.policy.state_dict()[name]), name


def test_the_buffer_holds_what_was_acted_on_as_bytes() -> None:
    model = agent().learn(128)
    buffer = model.rollout_buffer
    assert buffer.observations.dtype == th.uint8
    assert buffer.observations.shape == (32, 4, 3, 16, 16)
    rows = th.tensor([0, 5, 127])
    taken = buffer.rows("observations", rows)
    assert taken.is_contiguous(memory_format=th.channels_last)
    assert th.equal(taken, buffer.observations.flatten(0, 1)[rows])
    place = buffer.observations.data_ptr()
    model.learn(128, reset_num_timesteps=False)
    assert buffer.observations.data_ptr() == place  # graphs know this address
