"""One cycle of goalGAIL: targets, statistics, cloning, modes, and states without actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from goal_gail_testing import demonstrate, make_agent, point_env, tensors_of
from torch import nn

from rlzoo.agents.goal_gail import goal_gail
from rlzoo.agents.goal_gail.cloning import annealed, cloning_loss, q_filter
from rlzoo.agents.goal_gail.modes import MODES
from rlzoo.agents.goal_gail.normalizer import Normalizer
from rlzoo.core.finite import NonFiniteError
from rlzoo.errors import RefusedError

# ------------------------------------------------------------- targets, statistics


@pytest.mark.parametrize("n_envs", [1, 3])
def test_targets_move_once_per_cycle(n_envs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each cycle ``0.95 target + 0.05 network``; as many cycles as environments."""
    model = make_agent(point_env(n_envs))
    moves = []

    def record(online: nn.Module, target: nn.Module, tau: float) -> None:
        pairs = zip(target.parameters(), online.parameters(), strict=True)
        expected = [0.95 * t + 0.05 * p for t, p in pairs]
        inner(online, target, tau)
        moves.append(model._n_updates)
        for mine, theirs in zip(target.parameters(), expected, strict=True):
            th.testing.assert_close(mine.detach(), theirs.detach(), atol=1e-7, rtol=1e-5)

    inner = goal_gail.polyak_update
    monkeypatch.setattr(goal_gail, "polyak_update", record)
    before = tensors_of(model)
    model.learn(20 * n_envs)
    assert len(moves) == 2 * n_envs  # critic and actor
    assert model._n_updates == 5 * n_envs
    if n_envs == 1:
        after = tensors_of(model)
        for name in before:
            if name.startswith("policy/critic_target."):
                online = after[name.replace("_target", "")]
                th.testing.assert_close(after[name], 0.95 * before[name] + 0.05 * online)


def test_episodes_of_several_environments_are_steps_of_all() -> None:
    model = make_agent(point_env(4))
    assert model.train_freq.frequency == 20  # type: ignore[union-attr]
    model.learn(1)
    assert model.num_timesteps == 80
    assert int(model._replay.store.n_episodes) == 4
    assert make_agent(point_env(4), train_freq=(2, "episode")).train_freq.frequency == 40  # type: ignore[union-attr]


def test_statistics_are_those_of_what_was_stored() -> None:
    model = make_agent(point_env(2)).learn(160)
    replay, normalizer = model._replay, model.policy.normalizer
    rows = np.concatenate([replay.observations[:80], replay.desired_goals[:80]], axis=-1)
    rows = rows.reshape(-1, 5).astype(np.float64)
    assert int(normalizer.count) == 160
    np.testing.assert_allclose(normalizer.mean, rows.mean(0), atol=1e-6)
    expected = np.maximum(rows.std(0), 0.01)
    np.testing.assert_allclose(normalizer.std, expected, rtol=1e-5)
    assert normalizer.std[2] == pytest.approx(0.01)  # the constant


def test_normalizer_clips() -> None:
    normalizer = Normalizer(1)
    normalizer.update(th.tensor([[0.0], [1000.0]]))
    assert normalizer.mean.item() == 100
    assert normalizer.std.item() == 100
    assert normalizer(th.tensor([[1e9]])).item() == 1
    normalizer.std.fill_(1.0)
    assert normalizer(th.tensor([[150.0], [0.0], [101.0]])).flatten().tolist() == [5, -5, 1]
    assert Normalizer(1, enabled=False)(th.tensor([[1e9]])).item() == 1e9


def test_normalized_discriminator_sees_normalised_numbers() -> None:
    model = make_agent(disc_normalize=True).learn(40)
    batch = model._sample_rows(16)
    rows = model._disc_inputs(batch)
    now = model.policy.features(batch.observations, batch.goals)
    later = model.policy.features(batch.next_observations, batch.goals)
    th.testing.assert_close(rows, th.cat((now, later[:, :3]), dim=-1))


# -------------------------------------------------------------------- cloning


def test_gradient_of_cloning() -> None:
    actions = th.randn(4, 3, requires_grad=True)
    expert, keep = th.randn(4, 3), th.tensor([True, False, True, True])
    cloning_loss(actions, expert, 10, keep).backward()
    expected = 2 * (actions.detach() - expert) * keep[:, None] / 10
    th.testing.assert_close(actions.grad, expected)


def test_q_filter_keeps_rows_that_the_critic_prefers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert q_filter(th.tensor([1.0, 2.0, 3.0]), th.tensor([2.0, 2.0, 2.0])).tolist() == [0, 0, 1]

    class Prefers(nn.Module):
        """Q(o, a) = a_1, so the expert is better where its first action is larger."""

        def forward(self, features: th.Tensor, actions: th.Tensor, frozen: bool = False) -> Any:
            return actions[:, 0][None] + 0 * features[:, 0]

    model = make_agent(mode="her_bc", q_filter=True, demo_batch_size=50).learn(20)
    model.policy.critic = Prefers()  # type: ignore[assignment]
    calls = []

    def record(actions: th.Tensor, expert: th.Tensor, rows: int, keep: Any) -> th.Tensor:
        calls.append((actions, expert, rows, keep))
        return cloning_loss(actions, expert, rows, keep)

    monkeypatch.setattr(goal_gail, "cloning_loss", record)
    model._update_policy(32)
    actions, expert, rows, keep = calls[0]
    assert rows == 82
    assert len(expert) == 50
    assert th.equal(keep, expert[:, 0] > actions[:, 0])
    assert 0 < keep.sum() < 50


def test_annealing() -> None:
    assert [annealed(0.1, 0.9, n) for n in (0, 249)] == [0.1, 0.1]
    assert annealed(0.1, 0.9, 250) == pytest.approx(0.09)
    assert annealed(0.1, 0.9, 749) == pytest.approx(0.081)
    model = make_agent(mode="her_bc", gail_weight=0.2, gail_anneal=0.5).learn(20)
    model._episode_num = 500
    model.train(1, 32)
    assert float(model._bc_now) == pytest.approx(0.081)
    assert float(model._gail_now) == pytest.approx(0.05)


def test_cloning_alone_trains_the_actor_alone() -> None:
    model = make_agent(
        mode="bc", batch_size=None, demo_batch_size=None, n_disc_updates=None, learning_rate=1e-3
    )
    assert (model.batch_size, model.demo_batch_size, model.discriminator) == (0, 256, None)
    before = tensors_of(model)
    model.learn(20)
    after = tensors_of(model)
    changed = {n.split(".")[0] for n in before if not th.equal(before[n], after[n])}
    assert changed == {"policy/actor", "policy/actor_target", "policy/normalizer"}


# ---------------------------------------------------------------------- modes


@pytest.mark.parametrize("mode", MODES)
def test_modes_fill_what_is_left_open(mode: str) -> None:
    free = dict.fromkeys(("batch_size", "demo_batch_size", "n_disc_updates"))
    model = make_agent(mode=mode, **free)
    for name, value in MODES[mode].items():
        assert getattr(model, name) == value, name
    assert (model.discriminator is not None) == (mode in ("gail", "goalgail"))
    model.learn(20)
    assert all(t.isfinite().all() for t in tensors_of(model).values())


def test_what_is_given_wins() -> None:
    model = make_agent(mode="her", goal_weight=0.5, hindsight_p=0.3, distance_threshold=0.2)
    assert (model.goal_weight, model.hindsight_p, model.distance_threshold) == (0.5, 0.3, 0.2)
    assert model.demo_batch_size == 12  # as the settings of the helper say


@pytest.mark.parametrize("base", ["ddpg", "td3", "sac"])
def test_bases(base: str) -> None:
    model = make_agent(base=base, bc_coef=0.1).learn(60)
    assert len(model.policy.critic.nets) == (1 if base == "ddpg" else 2)
    obs = point_env(5).reset()
    first, second = (model.predict(obs)[0] for _ in range(2))
    assert np.array_equal(first, second) == (base != "sac")
    assert all(t.isfinite().all() for t in tensors_of(model).values())
    assert (model.action_noise is None) == (base == "sac")


def test_entropy_coefficient() -> None:
    tuned = make_agent(base="sac").learn(60)
    assert tuned.policy.temperature.item() != 1
    fixed = make_agent(base="sac", ent_coef=0.2).learn(60)
    assert fixed.policy.temperature.item() == pytest.approx(0.2)


def test_smaller_of_two_critics() -> None:
    model = make_agent(base="td3").learn(20)
    first, last = model.policy.critic_target.nets
    batch = model._sample_rows(32)
    for network, value in ((first, -3.0), (last, -1.0)):
        for parameter in network.parameters():
            nn.init.zeros_(parameter)
        nn.init.constant_(network.layers[-1].bias, value)  # type: ignore[index,union-attr]
    y = model._target(batch, th.zeros(len(batch.goals)))
    expected = th.where(batch.success, 0.0, -3 * model.gamma)
    th.testing.assert_close(y, expected)


def test_gamma_follows_from_the_horizon() -> None:
    assert make_agent().gamma == pytest.approx(1 - 1 / 20)
    assert make_agent(gamma=0.9).gamma == 0.9
    assert make_agent(horizon=100).gamma == pytest.approx(0.99)


def test_learning_without_demonstrations() -> None:
    model = make_agent(demonstrations=None)
    model.predict(point_env().reset())
    with pytest.raises(RefusedError, match=r"no demonstrations[\s\S]*set_demonstrations"):
        model.learn(1)
    model.set_demonstrations(demonstrate())
    assert model.learn(20)._n_updates == 5


def test_nan_stops_the_training() -> None:
    model = make_agent().learn(20)
    with th.no_grad():
        model.policy.critic.nets[0].layers[0].weight.fill_(float("nan"))  # type: ignore[index,union-attr]
    with pytest.raises(NonFiniteError, match="train"):
        model.learn(20, reset_num_timesteps=False)


# ---------------------------------------------------------------- states only


@pytest.mark.parametrize("how", ["none", "nan"])
def test_states_alone_teach_the_discriminator(how: str) -> None:
    episodes = demonstrate().without_actions()
    if how == "nan":
        full = demonstrate()
        assert full.actions is not None
        nan = np.full_like(full.actions, np.nan)
        episodes = type(full)(full.observations, full.achieved_goals, full.desired_goals, nan)
    model = make_agent(demonstrations=episodes)
    assert (model.demo_batch_size, model.bc_coef) == (0, 0)
    model.learn(100)
    assert all(t.isfinite().all() for t in tensors_of(model).values())
    assert len(model._sample_rows(32).goals) == 32


@pytest.mark.parametrize(
    "kwargs", [{"disc_input": "sa"}, {"mode": "bc", "batch_size": 0}, {"mode": "her_bc"}]
)
def test_where_actions_are_needed(kwargs: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="demonstrations without actions") as caught:
        make_agent(demonstrations=demonstrate().without_actions(), **kwargs)
    assert len(str(caught.value).splitlines()) == 3


# ------------------------------------------------------------------ exploration


def test_share_of_random_actions() -> None:
    model = make_agent(point_env(50), random_eps=0.3, action_noise=0.0)
    model._last_obs = point_env(50).reset()  # type: ignore[assignment]
    greedy = model.predict(model._last_obs, deterministic=True)[0]
    different = 0
    for _ in range(40):
        actions, stored = model._sample_action(0, None, 50)
        np.testing.assert_allclose(actions, 2 * stored, atol=1e-6)
        different += int((np.abs(actions - greedy) > 1e-6).any(axis=1).sum())
    assert abs(different / 2000 - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 2000)


def test_noise_has_its_deviation() -> None:
    model = make_agent(point_env(100), random_eps=0.0)
    model._last_obs = point_env(100).reset()  # type: ignore[assignment]
    greedy = model.predict(model._last_obs, deterministic=True)[0] / 2
    inside = np.abs(greedy) < 0.4
    noise = [
        (model._sample_action(0, model.action_noise, 100)[1] - greedy)[inside] for _ in range(50)
    ]
    assert np.concatenate(noise).std() == pytest.approx(0.15, abs=0.01)
