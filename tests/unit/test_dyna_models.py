"""The neural models on a linear system, and how they are fitted."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th

from rlzoo.agents.dyna_dqn.fitting import FitSettings, fit
from rlzoo.agents.dyna_dqn.neural_model import BackwardModel, ForwardModel, NeuralModel, Scaler
from rlzoo.agents.dyna_dqn.transitions import Batch

PUSH = th.tensor([[0.5, 0.0], [-0.5, 0.2], [0.0, -0.4]])
SETTINGS = FitSettings(learning_rate=3e-3, batch_size=64, epochs=40, patience=40)


def linear(n: int, seed: int = 0) -> Batch:
    """s' = s + push of the action; the first coordinate is paid; ends where it is above 1."""
    generator = th.Generator().manual_seed(seed)
    observations = th.rand(n, 2, generator=generator) * 4 - 2
    actions = th.randint(0, 3, (n,), generator=generator)
    following = observations + PUSH[actions]
    return Batch(
        observations, actions, 3 * observations[:, 0], following, (following[:, 0] > 1).float(),
        th.full((n,), 0.9), th.ones(n),
    )  # fmt: skip


def nothing_held(n: int) -> th.Tensor:
    return th.zeros(n, dtype=th.bool)


def fitted(cls: type[NeuralModel], n: int = 1500, n_models: int = 3, **kwargs: Any) -> Any:
    th.manual_seed(0)
    model = cls(2, 3, (32, 32), n_models)
    held = th.arange(n) % 5 == 0
    fit(model, linear(n), held, FitSettings(**{**vars(SETTINGS), **kwargs}))
    return model


@pytest.fixture(scope="module")
def forward() -> ForwardModel:
    return fitted(ForwardModel)


@pytest.fixture(scope="module")
def backward() -> BackwardModel:
    return fitted(BackwardModel)


def test_forward_learns_the_system(forward: ForwardModel) -> None:
    new = linear(300, seed=1)
    found = forward.forward_sample(new.observations, new.actions)
    assert (found.observations - new.next_observations).abs().mean() < 0.03
    assert (found.rewards - new.rewards).abs().mean() < 0.1
    assert ((found.dones > 0.5) == (new.dones > 0.5)).float().mean() > 0.97
    assert found.dones.min() >= 0
    assert found.dones.max() <= 1


def test_backward_finds_the_past(backward: BackwardModel) -> None:
    new = linear(3000, seed=1)
    found = backward.backward_sample(new.next_observations)
    past = (new.next_observations - PUSH[found.actions]).clamp(-2, 2)
    inside = ((new.next_observations - PUSH[found.actions]).abs() < 2).all(1)
    assert (found.observations - past)[inside].abs().mean() < 0.05
    assert (found.rewards - 3 * past[:, 0])[inside].abs().mean() < 0.2
    # Far below the middle only the actions 1 and 2 lead there: pushes that go down.
    low = new.next_observations[:, 1] < -2.1
    assert (found.actions[low] == 2).float().mean() > 0.85
    middle = new.next_observations.abs().amax(1) < 1.2
    assert th.bincount(found.actions[middle], minlength=3).min() > 0.25 * middle.sum()


@pytest.mark.parametrize("doubt", [False, True])
def test_predictions_stay_in_the_observed_range(
    forward: ForwardModel, backward: BackwardModel, doubt: bool
) -> None:
    far = th.full((10, 2), 50.0)
    ahead = forward.forward_sample(far, th.zeros(10, dtype=th.long), doubt)
    behind = backward.backward_sample(far, doubt)
    for found in (ahead, behind):
        assert found.observations.abs().max() <= 2.5 + 1e-5
        assert found.rewards.abs().max() <= 6 + 1e-5
    # The limits are those of the data, in each dimension.
    data = linear(1500)
    both = th.cat((data.observations, data.next_observations))
    assert th.equal(forward.observations.high, both.amax(0))
    assert th.equal(forward.observations.low, both.amin(0))


def test_members_disagree_where_there_are_no_data(forward: ForwardModel) -> None:
    # Clipping would hide it far outside, so two members are compared near the edge and inside.
    actions = th.zeros(50, dtype=th.long)
    inside = forward.forward_sample(th.rand(50, 2) - 0.5, actions, True).doubt
    edge = forward.forward_sample(th.rand(50, 2) * 0.3 + th.tensor([-5.0, 1.5]), actions, True)
    assert inside.max() < 0.05
    assert edge.doubt.mean() > 3 * inside.mean()
    assert forward.forward_sample(th.rand(5, 2), actions[:5]).doubt.tolist() == [0] * 5


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64])
def test_rows_are_dealt_to_the_members(forward: ForwardModel, n: int) -> None:
    new = linear(n, seed=2)
    dealt = forward.forward_sample(new.observations, new.actions, False)
    asked = forward.forward_sample(new.observations, new.actions, True)
    for mine, theirs in zip(dealt[:3], asked[:3], strict=True):
        assert th.allclose(mine, theirs, atol=1e-6)
    inputs = forward._inputs(new.observations, new.actions)
    members = forward._ask_all(forward.network, inputs)
    assert n < 2 or not th.equal(members[0], members[1])
    moved = forward._move(members, new.observations, 1.0)
    rows = th.arange(n)
    assert th.allclose(dealt.observations, moved[rows % 3, rows], atol=1e-6)


def test_backup_is_the_mean_over_the_members(forward: ForwardModel) -> None:
    new = linear(6, seed=3)
    found = forward.backup(new.observations, new.actions, lambda s: s.sum(-1), 0.9)
    answers = forward._ask_all(forward.network, forward._inputs(new.observations, new.actions))
    values = [
        forward._reward(a)
        + 0.9 * (1 - a[:, -1].sigmoid()) * forward._move(a, new.observations, 1.0).sum(-1)
        for a in answers
    ]
    assert th.allclose(found, th.stack(values).mean(0), atol=1e-5)


def test_the_best_weights_are_kept_and_the_loss_is_theirs() -> None:
    from rlzoo.agents.dyna_dqn.fitting import _held_out_losses

    data, held = linear(400), th.arange(400) % 4 == 0
    th.manual_seed(0)
    model = ForwardModel(2, 3, (32,), 3)
    # A learning rate at which the loss jumps up and down: the last epoch is not the best.
    found = fit(model, data, held, FitSettings(0.1, 0.0, 32, 20, 20))
    part = Batch(*(tensor[held] for tensor in data))
    assert float(_held_out_losses(model, part).mean()) == pytest.approx(found.loss, rel=1e-5)


def test_fitting_stops_when_nothing_gets_better() -> None:
    data, held = linear(200), th.arange(200) % 4 == 0
    model = ForwardModel(2, 3, (8,), 2)
    frozen = FitSettings(1e-12, 0.0, 64, 3, 50)
    assert fit(model, data, held, frozen).epochs == 3
    assert fit(model, data, held, FitSettings(1e-2, 0.0, 64, 3, 4)).epochs == 4


class Watched(ForwardModel):
    """Notes which rows it learns from."""

    def losses(self, data: Batch) -> th.Tensor:
        if th.is_grad_enabled():
            self.learned = getattr(self, "learned", set()) | set(data.rewards.flatten().tolist())
        return super().losses(data)


def test_held_out_rows_are_not_learned() -> None:
    data, held = linear(200), th.arange(200) % 5 == 0
    model = Watched(2, 3, (8,), 2)
    fit(model, data, held, FitSettings(epochs=2))
    assert model.learned == set(data.rewards[~held].tolist())


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_rows(n: int) -> None:
    model = BackwardModel(2, 3, (8,), 2)
    for held in (nothing_held(n), ~nothing_held(n)):
        fit(model, linear(n), held, FitSettings(epochs=2))
        assert model.is_fitted
        found = model.backward_sample(linear(4).next_observations)
        assert all(tensor.isfinite().all() for tensor in found)


def test_constants_are_harmless() -> None:
    scaler = Scaler(2)
    scaler.measure(th.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert scaler.normalize(th.tensor([[3.0, 5.0]])).tolist() == [[1.0, 0.0]]
    assert scaler.restore(th.tensor([[1.0, 0.0]])).tolist() == [[3.0, 5.0]]
    assert scaler.clip(th.tensor([[9.0, 6.0]])).tolist() == [[3.0, 5.0]]


def test_nothing_is_backpropagated_into_a_model(forward: ForwardModel) -> None:
    observations = th.rand(4, 2, requires_grad=True)
    found = forward.forward_sample(observations, th.zeros(4, dtype=th.long))
    assert not any(tensor.requires_grad for tensor in found)
    values = forward.backup(observations, th.zeros(4, dtype=th.long), lambda s: s.sum(-1), 0.9)
    assert not values.requires_grad
