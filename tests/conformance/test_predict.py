"""``predict`` and SB3's ``evaluate_policy``."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.evaluation import evaluate_policy

from rlzoo.core.seeding import get_states

from .agents import EPISODE, Subject, drawn, filled, flat_state, make_vec, observations_of, row_of


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("n", [None, 1, 5])
def test_shapes_types_and_bounds(agent: Subject, n: int | None, deterministic: bool) -> None:
    model = agent.trained()
    actions = model.action_space
    lead = () if n is None else (n,)
    # Far outside of the data, where a network that does not bound its actions shows it.
    observation = filled(model, 50.0, n)
    action, state = model.predict(observation, deterministic=deterministic)
    assert isinstance(action, np.ndarray)
    assert action.shape == (*lead, *actions.shape)  # type: ignore[misc]
    assert action.dtype == actions.dtype
    assert state is None or isinstance(state, tuple)
    for one in action.reshape(-1, *actions.shape):  # type: ignore[misc]
        assert actions.contains(one)


def test_actions_are_in_the_units_of_the_environment(agent: Subject) -> None:
    if "Box" not in agent.spec.action_spaces:
        pytest.skip("its actions have no units")
    # Pendulum's torque is in [-2, 2]; a forgotten unscaling would stay inside of [-1, 1].
    model = agent.make()
    action, _ = model.predict(drawn(model, 2000, 50))
    assert np.abs(action).max() > 1.0


def test_deterministic_actions_repeat_and_use_no_generator(agent: Subject) -> None:
    model = agent.trained()
    observation = filled(model, 1.0, 3)
    before = get_states()
    actions = [model.predict(observation, deterministic=True)[0] for _ in range(2)]
    np.testing.assert_array_equal(*actions)
    assert get_states() == before


def test_rows_of_a_batch_do_not_influence_each_other(agent: Subject) -> None:
    model = agent.trained()
    batch = drawn(model, 6)
    together, _ = model.predict(batch, deterministic=True)
    rows = [row_of(batch, index) for index in range(6)]
    alone = np.stack([model.predict(row, deterministic=True)[0] for row in rows])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_predict_changes_nothing_that_training_uses(agent: Subject) -> None:
    model = agent.trained()
    before = flat_state(model)
    counters = model.num_timesteps, model._n_updates, model._episode_num
    last = model._last_obs
    for deterministic in (True, False):
        model.predict(filled(model, 0.0, 4), deterministic=deterministic)
    assert (model.num_timesteps, model._n_updates, model._episode_num) == counters
    assert model._last_obs is last
    assert all(th.equal(value, before[name]) for name, value in flat_state(model).items())


def test_mistakes_get_sb3s_messages(agent: Subject) -> None:
    model = agent.make()
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        model.predict(observations_of(model, lambda _: np.zeros(17, np.float32)))
    with pytest.raises(ValueError, match="mixing Gym API"):
        model.predict((filled(model, 0.0), {}))  # type: ignore[arg-type]


def test_untrained_agents_predict(agent: Subject) -> None:
    model = agent.make()
    action, _ = model.predict(filled(model, 0.0))
    assert action.shape == model.action_space.shape


def test_evaluate_policy_runs_whole_episodes(agent: Subject) -> None:
    model = agent.make()
    rewards, lengths = evaluate_policy(
        model, agent.vec(), n_eval_episodes=2, return_episode_rewards=True
    )
    assert lengths == [EPISODE, EPISODE]
    assert all(reward < 0 for reward in rewards)  # type: ignore[union-attr]
    mean, std = evaluate_policy(model, agent.vec(), n_eval_episodes=2)
    assert mean == pytest.approx(np.mean(rewards))
    assert std == pytest.approx(np.std(rewards))


def test_one_and_four_environments_give_the_same_returns(agent: Subject) -> None:
    model = agent.trained()
    # `VecEnv.seed(s)` gives seed s + i to environment i.
    together, _ = evaluate_policy(
        model, make_vec(agent.row.env_id, 4, seed=40), 4, return_episode_rewards=True
    )
    alone = [
        evaluate_policy(model, make_vec(agent.row.env_id, 1, seed=40 + i), 1)[0] for i in range(4)
    ]
    np.testing.assert_allclose(sorted(together), sorted(alone), rtol=1e-4)  # type: ignore[type-var]
    assert len(set(alone)) == 4
