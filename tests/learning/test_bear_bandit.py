"""Actions that the data never show: BEAR stays away, plain TD3 walks into them (page, item 16).

One-step episodes. The data hold actions in [-0.5, 0.5] with reward = action, so every critic
extrapolates that more is better; in truth actions beyond 0.6 cost 5.
"""

import numpy as np
from gymnasium import spaces

from rlzoo.agents.batch import TD3Batch
from rlzoo.agents.bcq import BCQ
from rlzoo.agents.bear import BEAR
from rlzoo.data.transitions import Transitions

STATES = np.random.default_rng(99).normal(size=(1000, 2)).astype(np.float32)


def make_data(seed, rows=5000):
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(rows, 2)).astype(np.float32)
    actions = rng.uniform(-0.5, 0.5, (rows, 1)).astype(np.float32)
    return Transitions(
        observations=states,
        actions=actions,
        rewards=actions[:, 0].copy(),
        terminations=np.ones(rows, np.bool_),
        truncations=np.zeros(rows, np.bool_),
        next_observations=states.copy(),
        episode_starts=np.arange(rows + 1),
        observation_space=spaces.Box(-np.inf, np.inf, (2,)),
        action_space=spaces.Box(-1, 1, (1,)),
    )


def outcome(model):
    """Return the share of actions outside of the data's support, and the mean true reward."""
    actions = model.predict(STATES, deterministic=True)[0][:, 0]
    outside = np.abs(actions) > 0.6
    return outside.mean(), np.where(outside, -5.0, actions).mean()


def train_bear(steps, behavior="cvae", alpha="auto", seed=0):
    model = BEAR(
        dataset=make_data(seed), seed=seed, device="cpu", batch_size=128, learning_rate=1e-3,
        actor_learning_rate=1e-3, behavior_learning_rate=1e-3, warmup_steps=steps // 2, alpha=alpha,
        policy_kwargs={"net_arch": [64, 64], "vae_arch": [64, 64], "behavior": behavior},
    )  # fmt: skip
    return model.learn(steps)


def train_td3(steps):
    model = TD3Batch(
        dataset=make_data(0), seed=0, device="cpu", batch_size=128,
        policy_kwargs={"net_arch": [64, 64]},
    )  # fmt: skip
    return model.learn(steps)


def train_bcq(steps, **policy_kwargs):
    model = BCQ(
        dataset=make_data(0), seed=0, device="cpu", batch_size=128,
        policy_kwargs={"net_arch": [64, 64], "vae_arch": [64, 64]} | policy_kwargs,
    )  # fmt: skip
    return model.learn(steps)


def test_plain_td3_leaves_the_support_of_the_data():
    share, reward = outcome(train_td3(500))
    assert share > 0.5
    assert reward < -2


# The reward of behaviour cloning is 0. Measured with seeds 0 to 3: share 0.000-0.001 in both tests,
# reward 0.47-0.53 with the Gaussian behaviour model, 0.01-0.04 with the CVAE, which collapses to
# the mean of such narrow data. With the CVAE and a tuned multiplier the constraint can be met, so
# alpha falls and BEAR leaves the support for some hundred updates at a time: not asserted here.
def test_bear_stays_in_the_support_and_still_improves():
    share, reward = outcome(train_bear(3000, "gaussian"))
    assert share < 0.05
    assert reward > 0.25


def test_bear_with_the_cvae_of_the_paper_and_the_fixed_weight_of_its_code():
    share, reward = outcome(train_bear(1500, alpha=100.0))
    assert share < 0.05
    assert reward > -0.05


def test_bcq_stays_in_the_support():
    share, reward = outcome(train_bcq(800))
    assert share < 0.05
    assert reward > -0.05


def test_bcq_whose_perturbation_has_no_bound_leaves_it():
    share, _ = outcome(train_bcq(800, phi=1.0))
    assert share > 0.5
