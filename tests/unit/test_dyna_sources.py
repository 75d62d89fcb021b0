"""Where planned transitions come from, on a model whose answers are known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch as th

from rlzoo.agents.dyna_dqn.sources import (
    Backward,
    Forward,
    Planner,
    Return,
    Rollout,
    Stored,
    lookahead,
    trust,
)
from rlzoo.agents.dyna_dqn.transitions import Batch, Prediction

GAMMA = 0.9


class Line:
    """s' = s + 1 + a, paid with s; the episode ends from 10 on; nothing is known from 100 on."""

    def forward_sample(
        self, observations: th.Tensor, actions: th.Tensor, doubt: bool = False
    ) -> Prediction:
        state = observations[:, 0]
        following = state + 1 + actions
        spread = th.where(state >= 100, float("inf"), state / 100)
        return Prediction(
            following[:, None], state, (following >= 10).float(), spread, actions
        )  # fmt: skip

    def backward_sample(self, next_observations: th.Tensor, doubt: bool = False) -> Prediction:
        past = next_observations - 2
        ones = th.ones(len(past), dtype=th.long)
        return Prediction(past, past[:, 0], th.zeros(len(past)), past[:, 0] / 100, ones)

    def backup(
        self,
        observations: th.Tensor,
        actions: th.Tensor,
        value: Callable[[th.Tensor], th.Tensor],
        gamma: float,
    ) -> th.Tensor:
        found = self.forward_sample(observations, actions)
        values = found.rewards + gamma * (1 - found.dones) * value(found.observations)
        return th.where(found.doubt.isfinite(), values, float("nan"))


def queries(*states: float) -> Batch:
    """Stored pairs with action 0 whose outcomes are nothing like what the model says."""
    n = len(states)
    observations = th.tensor(states)[:, None]
    return Batch(
        observations, th.zeros(n, dtype=th.long), th.full((n,), -7.0), observations + 50,
        (th.arange(n) % 2).float(), th.full((n,), GAMMA), th.ones(n),
    )  # fmt: skip


def always_one(observations: th.Tensor) -> th.Tensor:
    return th.ones(len(observations), dtype=th.long)


def test_replay_is_what_is_stored() -> None:
    batch = queries(1, 2)
    assert Stored().transitions(batch) is batch


def test_forward_keeps_the_pair_and_predicts_the_outcome() -> None:
    batch = queries(1, 2, 9)
    found = Forward(Line()).transitions(batch)
    assert th.equal(found.observations, batch.observations)
    assert found.actions.tolist() == [0, 0, 0]
    assert found.next_observations[:, 0].tolist() == [2, 3, 10]
    assert found.rewards.tolist() == [1, 2, 9]
    assert found.dones.tolist() == [0, 0, 1]  # not the stored ones
    assert found.weights.tolist() == [1, 1, 1]


def test_forward_with_other_actions() -> None:
    found = Forward(Line(), always_one).transitions(queries(1, 2))
    assert found.actions.tolist() == [1, 1]
    assert found.next_observations[:, 0].tolist() == [3, 4]


def test_backward_keeps_the_state_and_its_end_and_predicts_the_pair() -> None:
    batch = queries(1, 2)
    found = Backward(Line()).transitions(batch)
    assert th.equal(found.next_observations, batch.next_observations)
    assert found.dones.tolist() == [0, 1]
    assert found.observations[:, 0].tolist() == [49, 50]
    assert found.actions.tolist() == [1, 1]
    assert found.rewards.tolist() == [49, 50]


def test_disagreement_drops_samples() -> None:
    assert Forward(Line(), None, 0.02).transitions(queries(1, 2, 3)).weights.tolist() == [1, 1, 0]
    assert Backward(Line(), 0.49).transitions(queries(1, 2)).weights.tolist() == [1, 0]
    found = Line().forward_sample(th.tensor([[1.0], [200.0]]), th.zeros(2, dtype=th.long))
    assert trust(found, None).tolist() == [1, 0]  # what is not known at all is never learned
    assert trust(found, 0.0).tolist() == [0, 0]


def test_every_step_of_a_rollout_is_the_start_of_an_update() -> None:
    found = Rollout(Line(), always_one, 3).transitions(queries(0, 3, 60, 61, 62, 63))
    # Two trajectories of three steps; the first action is the stored one.
    assert found.observations[:, 0].tolist() == [0, 3, 1, 4, 3, 6]
    assert found.actions.tolist() == [0, 0, 1, 1, 1, 1]
    assert found.next_observations[:, 0].tolist() == [1, 4, 3, 6, 5, 8]
    assert found.rewards.tolist() == found.observations[:, 0].tolist()


def test_a_rollout_begins_with_the_policy_if_asked() -> None:
    found = Rollout(Line(), always_one, 2, from_policy=True).transitions(queries(0, 5))
    assert found.actions.tolist() == [1, 1]
    assert found.observations[:, 0].tolist() == [0, 2]


def test_a_rollout_never_goes_on_from_a_predicted_end() -> None:
    found = Rollout(Line(), always_one, 3).transitions(queries(9, 2, 3))
    assert found.observations[:, 0].tolist() == [9, 2, 3]  # a fresh start, then on from there
    assert found.actions.tolist() == [0, 0, 1]
    assert found.dones.tolist() == [1, 0, 0]


def test_a_rollout_begins_again_where_the_model_knows_nothing() -> None:
    found = Rollout(Line(), always_one, 2).transitions(queries(200, 4))
    assert found.observations[:, 0].tolist() == [200, 4]
    assert found.weights.tolist() == [0, 1]


@pytest.mark.parametrize(("n", "length"), [(5, 2), (7, 3), (1, 4), (4, 9), (6, 1)])
def test_a_rollout_gives_as_many_transitions_as_queries(n: int, length: int) -> None:
    found = Rollout(Line(), always_one, length).transitions(queries(*range(n)))
    assert found.size == n
    assert all(len(tensor) == n for tensor in found)


def test_a_return_of_several_steps() -> None:
    found = Return(Line(), always_one, 3).transitions(queries(0, 1))
    # From 0: to 1 (action 0), to 3, to 5, paid 0, 1, 3; nothing ends.
    assert th.allclose(found.rewards[0], th.tensor(GAMMA * 1 + GAMMA**2 * 3))
    assert found.next_observations[:, 0].tolist() == [5, 6]
    assert found.observations[:, 0].tolist() == [0, 1]
    assert th.allclose(found.discounts, th.tensor(GAMMA**3))
    assert found.dones.tolist() == [0, 0]


def test_a_return_stops_at_the_end() -> None:
    found = Return(Line(), always_one, 4).transitions(queries(8, 200))
    # From 8: to 9, to 11, which is the end; paid 8 and 9 and no more.
    assert th.allclose(found.rewards[0], th.tensor(8 + GAMMA * 9))
    assert found.dones.tolist()[0] == 1
    assert found.weights.tolist() == [1, 0]


def test_looking_one_step_ahead() -> None:
    def q_values(observations: th.Tensor) -> th.Tensor:
        return th.cat((observations, 2 * observations), -1)

    found = lookahead(Line(), q_values, th.tensor([[1.0], [8.0], [200.0]]), GAMMA)
    expected = th.tensor(
        [
            [1 + GAMMA * 4, 1 + GAMMA * 6],
            [8 + GAMMA * 18, 8.0],  # action 1 ends the episode: no value after it
            [200.0, 400.0],  # nothing is known: the Q values stay
        ]
    )
    assert th.allclose(found, expected)


def test_the_planner_hands_on_what_the_source_gives() -> None:
    class Control:
        def sample(self, n: int) -> Batch:
            return queries(*range(n))

    seen: list[Batch] = []
    assert Planner(Control(), Forward(Line()), seen.append).plan(3, 4) == 12
    assert [batch.size for batch in seen] == [4, 4, 4]
    assert seen[0].next_observations[:, 0].tolist() == [1, 2, 3, 4]
