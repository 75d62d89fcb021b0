"""The reward of goalGAIL, the values that follow from it, and combinations that are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th
from goal_gail_testing import make_agent
from torch import nn

from rlzoo.agents.goal_gail.relabel import GoalBatch
from rlzoo.agents.goal_gail.rewards import gail_reward, largest_value, reward
from rlzoo.errors import RefusedError

NO = th.tensor([False])


@pytest.mark.parametrize(
    ("logit", "expected"), [(0.0, -0.0693147), (-50.0, 0.1 * -18.42068), (50.0, 0.0)]
)
def test_log_of_the_discriminator(logit: float, expected: float) -> None:
    r = gail_reward("log_d", th.tensor([logit]))
    total = reward(NO, r, 0.0, 0.1)
    assert total.item() == pytest.approx(expected, abs=1e-7, rel=1e-6)


def test_other_rewards_and_the_clip() -> None:
    logits = th.tensor([-50.0, 0.0, 50.0])
    th.testing.assert_close(
        gail_reward("neg_log_one_minus_d", logits),
        th.tensor([0.0, 0.6931472, 18.4206807]), atol=1e-6, rtol=1e-6,
    )  # fmt: skip
    th.testing.assert_close(gail_reward("prob", logits), th.tensor([0.0, 0.5, 1.0]))
    th.testing.assert_close(gail_reward("logit", logits), logits)
    clipped = reward(th.tensor([True, False, False]), logits, 0.5, 0.1, clip=2.0)
    th.testing.assert_close(clipped, th.tensor([0.3, 0.0, 0.2]))


def test_largest_values() -> None:
    assert largest_value("log_d", 0.0, 0.99, terminate=True) == 0
    assert largest_value("log_d", 0.9, 0.99, terminate=True) == 0.9
    assert largest_value("log_d", 1.0, 0.99, terminate=False) == pytest.approx(100)
    assert largest_value("prob", 0.0, 0.99, terminate=False) == float("inf")


# ------------------------------------------------------------- values on a chain

N = 11


class Table(nn.Module):
    """A critic that looks values up by state, goal and sign of the action."""

    def __init__(self) -> None:
        super().__init__()
        self.values = th.zeros(N, N, 2)

    def forward(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        index = features.round().long()
        return self.values[index[:, 0], index[:, 2], (actions[:, 0] > 0).long()][None]


class Greedy(nn.Module):
    """An actor that takes the better of both actions."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.table = table

    def sample(self, features: th.Tensor) -> tuple[th.Tensor, None]:
        index = features.round().long()
        best = self.table.values[index[:, 0], index[:, 2]].argmax(-1)
        return (2.0 * best - 1)[:, None], None


def chain() -> GoalBatch:
    """Return every state, goal and action (left, right) of a chain of cells with walls."""
    cells = th.arange(N)
    s, g, a = (x.flatten() for x in th.meshgrid(cells, cells, th.arange(2), indexing="ij"))
    then = (s + 2 * a - 1).clamp(0, N - 1)
    constant = th.full((len(s), 1), 0.0)
    return GoalBatch(
        observations=th.cat((s[:, None].float(), constant), -1),
        actions=2.0 * a[:, None] - 1,
        next_observations=th.cat((then[:, None].float(), constant), -1),
        achieved_goals=s[:, None].float(),
        next_achieved_goals=then[:, None].float(),
        goals=g[:, None].float(),
        success=(then - g).abs() < 0.5,
    )


def fixpoint(sweeps: int, **kwargs: Any) -> th.Tensor:
    """Iterate the agent's own targets on the chain; the discriminator says 0 everywhere."""
    settings = {
        "mode": "her", "gail_weight": 0.1, "goal_weight": 0.0, "normalize": False, "gamma": 0.99,
        "demonstrations": None, "n_disc_updates": 0, "demo_batch_size": 0,
    }  # fmt: skip
    model = make_agent(**{**settings, **kwargs})
    if model.discriminator is not None:
        for parameter in model.discriminator.parameters():
            nn.init.zeros_(parameter)
    batch, table = chain(), Table()
    model.policy.critic_target, model.policy.actor_target = table, Greedy(table)  # type: ignore[assignment]
    model._disc_inputs = lambda batch, noise=0.0: th.zeros(len(batch.goals), model._disc_width())  # type: ignore[method-assign]
    model._gail_now.fill_(model.gail_weight)
    for _ in range(sweeps):
        y = model._target(batch, model._gail_reward(batch))
        table.values = y.reshape(N, N, 2)
    return table.values


def steps_to_goal(s: int, g: int) -> int:
    """At the goal one has to leave and come back; at a wall to push against it."""
    return abs(s - g) if s != g else (1 if s in (0, N - 1) else 2)


def test_values_with_the_discriminator_alone() -> None:
    values = fixpoint(300)
    for s in range(N):
        for g in range(N):
            n = steps_to_goal(s, g)
            expected = -0.0693147 * (1 - 0.99**n) / (1 - 0.99)
            assert values[s, g].max().item() == pytest.approx(expected, abs=1e-5)
            if s != g:
                assert int(values[s, g].argmax()) == int(g > s), "not the shortest path"
    assert values[0, 1].max().item() == pytest.approx(-0.0693, abs=1e-4)
    assert values[0, 2].max().item() == pytest.approx(-0.1379, abs=1e-4)
    assert values[0, 10].max().item() == pytest.approx(-0.6628, abs=1e-4)


def test_without_terminals_all_values_are_the_same() -> None:
    values = fixpoint(2000, terminate_on_success=False)
    th.testing.assert_close(values, th.full_like(values, -6.93147), atol=1e-4, rtol=0)


def test_values_of_her() -> None:
    values = fixpoint(300, gail_weight=0.0, goal_weight=1.0)
    for s in range(N):
        for g in range(N):
            n = steps_to_goal(s, g)
            assert values[s, g].max().item() == pytest.approx(0.99 ** (n - 1), abs=1e-5)


def test_targets_never_exceed_their_bound() -> None:
    model = make_agent().learn(60)
    batch = model._sample_rows(64)
    for parameter in model.policy.critic_target.parameters():
        nn.init.constant_(parameter, 1.0)  # values far above 0
    y = model._target(batch, model._gail_reward(batch))
    assert (y <= 0).all()
    assert (y[~batch.success] == 0).all()
    model.goal_weight = 0.9
    assert model._target(batch, model._gail_reward(batch)).max().item() == pytest.approx(0.9)


# ------------------------------------------------------------------ combinations


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"gail_reward": "neg_log_one_minus_d"}, "avoids the goal"),
        ({"gail_reward": "prob"}, "terminate_on_success=True"),
        ({"gail_anneal": 0.9}, "gail_anneal=0.9 with goal_weight=0"),
        ({"batch_size": 0, "demo_batch_size": 0}, "nothing to learn from"),
        ({"bc_coef": 0.1, "demo_batch_size": 0}, "bc_coef=0.1 with demo_batch_size=0"),
        ({"mode": "bc", "batch_size": 32}, "mode='bc' with batch_size=32"),
        ({"mode": "bc", "batch_size": 0, "q_filter": True}, "q_filter"),
        ({"capture": True}, "capture=True on device cpu"),
        ({"hindsight_p": 1.5}, r"hindsight_p=1.5 is out of range"),
        ({"mode": "gial"}, "Did you mean 'gail'"),
        ({"base": "ppo"}, "base='ppo' is not known"),
    ],
)
def test_meaningless_combinations(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError, match=message) as caught:
        make_agent(**kwargs)
    assert len(str(caught.value).splitlines()) <= 3


def test_what_is_refused_with_a_reason_is_fine_without_it() -> None:
    make_agent(gail_reward="prob", terminate_on_success=False)
    make_agent(gail_anneal=0.9, goal_weight=0.9)
