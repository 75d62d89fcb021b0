"""DAE-MPC's model and denoiser against closed forms (paper page, section 8, 1, 2, 4, 6, 8, 9)."""

from __future__ import annotations

import math

import pytest
import torch as th
from dae_mpc_testing import generator, task_of
from torch import nn

from rlzoo.agents.dae_mpc.denoiser import (
    Denoiser,
    ParzenDenoiser,
    Penalty,
    episode_windows,
    n_windows,
    plan_windows,
)
from rlzoo.agents.dae_mpc.dynamics import DynamicsModel
from rlzoo.agents.dae_mpc.networks import (
    ProbabilisticMLP,
    SiluMLP,
    bound_log_variance,
    decay_by_layer,
)
from rlzoo.agents.dae_mpc.normalizer import Normalizer


@pytest.fixture(autouse=True)
def seeded() -> None:
    th.manual_seed(0)


# ------------------------------------------------------------------- normaliser


def test_statistics_are_those_of_float64() -> None:
    # In float32 the variance of these is 4 times too large, or negative.
    values = th.randn(1000, 2) * th.tensor([1.0, 0.01]) + th.tensor([3e3, 100.0])
    normalizer = Normalizer(2)
    normalizer.measure(values)
    exact = values.double()
    th.testing.assert_close(normalizer.mean.double(), exact.mean(0), rtol=1e-7, atol=0)
    expected = exact.std(0, correction=0)
    th.testing.assert_close(normalizer.scale.double(), expected, rtol=1e-6, atol=0)
    back = normalizer.restore(normalizer.normalize(values))
    th.testing.assert_close(back, values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("constant", [0.0, 0.3, -1e4])
def test_what_does_not_vary_is_not_scaled(constant: float) -> None:
    values = th.full((50, 1), constant)
    values[0] += abs(constant) * 1e-7  # the last bit
    normalizer = Normalizer(1)
    normalizer.measure(values)
    assert normalizer.scale.item() == 1.0


def test_small_but_true_deviations_are_kept() -> None:
    values = th.randn(500, 1) * 1e-9
    normalizer = Normalizer(1)
    normalizer.measure(values)
    assert normalizer.normalize(values).std().item() == pytest.approx(1, rel=0.01)


# ---------------------------------------------------------------------- networks


def test_log_variance_stays_between_its_bounds() -> None:
    raw = th.tensor([-1e3, -20.0, -3.0, 0.0, 5.0, 1e3])
    low, high = th.tensor(-10.0), th.tensor(0.5)
    bounded = bound_log_variance(raw, low, high)
    # The upper bound is not passed, but for what the second softplus adds.
    assert bounded.min() >= -10
    assert bounded.max() <= 0.5 + 1e-4
    assert bounded[2].item() == pytest.approx(-3.0, abs=0.05)
    assert (bounded.diff() >= 0).all()


def test_members_are_what_they_are_alone() -> None:
    network = ProbabilisticMLP(3, 4, (8, 8), 2)
    inputs = th.randn(3, 5, 4)
    mean, log_variance = network(inputs)
    for k in range(3):
        x = inputs[k]
        for layer in network.stacked[:-1]:
            x = nn.functional.silu(x @ layer.weight[k] + layer.bias[k])
        last = network.stacked[-1]
        x = x @ last.weight[k] + last.bias[k]
        th.testing.assert_close(mean[k], x[:, :2])
        th.testing.assert_close(
            log_variance[k],
            bound_log_variance(x[:, 2:], network.min_log_variance, network.max_log_variance),
        )


def test_loss_by_hand() -> None:
    network = ProbabilisticMLP(2, 3, (4,), 2)
    inputs, targets = th.randn(2, 6, 3), th.randn(2, 6, 2)
    mean, logs = network(inputs)
    parts = ((targets - mean) ** 2 * th.exp(-logs) + logs).mean((1, 2))
    total, likelihood = network.loss(inputs, targets, ())
    th.testing.assert_close(total, parts.sum() + 0.01 * 2 * 10.5)
    th.testing.assert_close(likelihood, parts.mean().detach())
    with_decay, _ = network.loss(inputs, targets, (0.1, 0.3))
    squares = [layer.weight.square().sum() for layer in network.stacked]
    th.testing.assert_close(with_decay - total, 0.05 * squares[0] + 0.15 * squares[1])


def test_decay_by_layer() -> None:
    assert decay_by_layer((1, 2, 3, 4), 4) == [1, 2, 3, 4]
    assert decay_by_layer((1, 2, 4), 5) == [1, 2, 2, 2, 4]
    assert decay_by_layer((1, 2, 3, 4), 2) == [1, 4]
    assert decay_by_layer((5,), 3) == [5, 5, 5]
    assert decay_by_layer((), 2) == [0, 0]


def test_first_weights_are_those_of_hot() -> None:
    network = SiluMLP(100, (400,), 50)
    for layer in network.linear:
        std = 0.5 / math.sqrt(layer.in_features)
        assert layer.weight.abs().max() <= 2 * std
        # Truncation at two deviations leaves 0.88 of the deviation.
        assert layer.weight.std().item() == pytest.approx(0.88 * std, rel=0.02)
        assert not layer.bias.any()


# ---------------------------------------------------------------------- denoiser


def test_parzen_denoiser_is_the_score() -> None:
    rows = th.randn(40, 3, dtype=th.float64)
    sigma = 0.3
    denoiser = ParzenDenoiser(rows, sigma)
    x = th.randn(20, 3, dtype=th.float64, requires_grad=True)
    squares = (x[:, None] - rows).square().sum(-1)
    density = (-squares / (2 * sigma**2)).logsumexp(-1)
    (score,) = th.autograd.grad(density.sum(), x)
    assert (denoiser(x) - x - sigma**2 * score).abs().max().item() < 1e-13


class GaussianDenoiser(nn.Module):
    """The best denoiser of N(mu, s^2): g(x) = x - c (x - mu), c = sigma^2 / (s^2 + sigma^2)."""

    def __init__(self, c: float, mu: float = 0.0) -> None:
        super().__init__()
        self.c, self.mu = c, mu

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x - self.c * (x - self.mu)


@pytest.mark.parametrize(("stop", "power"), [(False, 2), (True, 1)])
def test_gradient_of_the_penalty_of_a_gaussian(stop: bool, power: int) -> None:
    c, mu = 0.2, 0.7
    x = th.randn(9, 4, dtype=th.float64, requires_grad=True)
    penalty = Penalty(stop_gradient=stop)(GaussianDenoiser(c, mu), x)
    th.testing.assert_close(penalty, c**2 * (x - mu).square().sum(-1))
    (gradient,) = th.autograd.grad(penalty.sum(), x)
    th.testing.assert_close(gradient, 2 * c**power * (x - mu))


def test_hinge_and_target() -> None:
    denoiser, x = GaussianDenoiser(0.5), th.tensor([[1.0, 1.0], [4.0, 0.0]])
    th.testing.assert_close(Penalty()(denoiser, x), th.tensor([0.5, 4.0]))
    hinged = Penalty()(denoiser, x, th.tensor(1.0))
    th.testing.assert_close(hinged, th.tensor([0.0, 3.0]))
    th.testing.assert_close(Penalty(target=1.0)(denoiser, x), th.tensor([0.25, 9.0]))


@pytest.mark.parametrize(("horizon", "window", "n"), [(30, 5, 26), (30, 1, 30), (4, 4, 1)])
def test_windows_of_a_plan(horizon: int, window: int, n: int) -> None:
    pairs = th.arange(horizon * 2 * 3).view(horizon, 2, 3)
    windows = plan_windows(pairs, window)
    assert windows.shape == (n, 2, 3 * window)
    assert n_windows(horizon, window) == n
    for k in range(n):
        expected = th.cat([pairs[k + i] for i in range(window)], -1)
        assert th.equal(windows[k], expected)


def test_penalty_of_a_window_depends_on_its_own_pairs_only() -> None:
    pairs = th.randn(6, 1, 2, dtype=th.float64, requires_grad=True)
    rows = th.randn(8, 6, dtype=th.float64)
    penalties = Penalty()(ParzenDenoiser(rows, 0.5), plan_windows(pairs, 3)).squeeze(1)
    for k, penalty in enumerate(penalties):
        (gradient,) = th.autograd.grad(penalty, pairs, retain_graph=True)
        touched = gradient.abs().sum((1, 2)) > 0
        assert touched.tolist() == [k <= j < k + 3 for j in range(6)]


def test_stored_windows_do_not_cross_episodes() -> None:
    pairs = th.arange(7.0).unsqueeze(-1)
    follows = th.tensor([True, True, False, True, True, True])
    windows = episode_windows(pairs, follows, 3)
    assert windows.tolist() == [[0, 1, 2], [3, 4, 5], [4, 5, 6]]
    assert len(episode_windows(pairs, follows, 5)) == 0
    assert len(episode_windows(pairs[:2], follows[:1], 3)) == 0
    assert th.equal(episode_windows(pairs, follows, 1), pairs)


def train(loss_of: object, parameters: object, steps: int, lr: float = 3e-3) -> None:
    optimizer = th.optim.Adam(parameters, lr)  # type: ignore[arg-type]
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of().backward()  # type: ignore[operator]
        optimizer.step()


def test_a_trained_denoiser_is_near_the_best_one() -> None:
    sigma, c = 0.5, 0.2
    data, draws = th.randn(5000, 8), generator()
    denoiser = Denoiser(8, (64, 64))

    def loss() -> th.Tensor:
        x = data[th.randint(5000, (256,), generator=draws)]
        return denoiser.loss(x, sigma * th.randn(x.shape, generator=draws))

    train(loss, denoiser.parameters(), 1200)
    x = data[:2000]
    with th.no_grad():
        moved = denoiser(x) - x
        slope = (moved * -x).sum() / x.square().sum()
        assert slope.item() == pytest.approx(c, rel=0.2)
        near, far = Penalty()(denoiser, x).mean(), Penalty()(denoiser, 4 * x).mean()
    assert far > 4 * near


def test_residual_output() -> None:
    plain, residual = Denoiser(3, (4,)), Denoiser(3, (4,), residual=True)
    residual.load_state_dict(plain.state_dict())
    x = th.randn(5, 3)
    th.testing.assert_close(residual(x), x + plain(x))


# --------------------------------------------------------------------- the model


def fitted_model(scale: float = 1.0, **options: object) -> tuple[DynamicsModel, th.Tensor]:
    """A model of s' = s + A s + B a + 0.1 noise, one dimension of s in other units."""
    task = task_of(lambda o, a, n: n[..., 0] / scale, 3, 2)
    model = DynamicsModel(task, 1, (32, 32), **options)  # type: ignore[arg-type]
    draws = generator(3)
    states, actions = th.randn(4000, 3, generator=draws), th.rand(4000, 2, generator=draws) * 2 - 1
    a, b = 0.3 * th.randn(3, 3, generator=draws), th.randn(2, 3, generator=draws)
    noise = 0.1 * th.randn(4000, 3, generator=draws)
    after = states + states @ a + actions @ b + noise
    units = th.tensor([scale, 1.0, 1.0])
    states, after = states * units, after * units
    pairs = model.raw_pairs(states, actions)
    targets = model.raw_targets(states, after, th.zeros(4000))
    model.measure(pairs, targets)
    z, y = model.inputs.normalize(pairs), model.targets.normalize(targets)
    th.manual_seed(5)
    for parameter in model.parameters():  # the same whatever was drawn before
        if parameter.dim() == 3:
            nn.init.normal_(parameter, std=0.2)

    def loss() -> th.Tensor:
        rows = th.randint(4000, (256,), generator=draws)
        return model.network.loss(z[rows].unsqueeze(0), y[rows].unsqueeze(0), ())[0]

    train(loss, model.parameters(), 600)
    train(loss, model.parameters(), 300, 3e-4)
    truth = (states / units) @ a + actions @ b
    error = model.targets.restore(model.predict(z)) / units - truth
    return model, error


def test_model_learns_a_linear_system_and_its_noise() -> None:
    model, error = fitted_model()
    assert error.square().mean().sqrt().item() < 0.02
    _, log_variance = model.network(th.zeros(1, 1, 5))
    variance = log_variance.exp().squeeze() * model.targets.scale.square()
    assert variance.tolist() == pytest.approx([0.01] * 3, rel=0.25)


def test_units_of_an_observation_do_not_matter() -> None:
    plans = (th.rand(6, 2, 4, 2, generator=generator(8)) * 2 - 1).contiguous()
    found = []
    for scale in (1.0, 1000.0):
        model, _ = fitted_model(scale)
        start = th.tensor([[0.5, -0.2, 0.1], [0.0, 1.0, -1.0]]) * th.tensor([scale, 1, 1])
        found.append(model.rollout(start, plans))
    th.testing.assert_close(found[0].pairs, found[1].pairs, rtol=1e-4, atol=1e-4)
