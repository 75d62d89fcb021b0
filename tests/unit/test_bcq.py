"""BCQ against hand computations: target, bound of the perturbation, order and gradients."""

import inspect

import pytest
import torch as th
from bear_testing import changed, make_data
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from rlzoo.agents.bcq import BCQ, MlpPolicy
from rlzoo.agents.bcq.policies import Perturbation
from rlzoo.core.critics import first_q
from rlzoo.errors import RefusedError

SMALL = {"net_arch": [16, 16], "vae_arch": [16, 16], "n_eval_samples": 10}


def make_bcq(**changes):
    policy_kwargs = SMALL | changes.pop("policy_kwargs", {})
    arguments = {"dataset": make_data(), "device": "cpu", "seed": 1, "batch_size": 32}
    return BCQ(policy_kwargs=policy_kwargs, **(arguments | changes))


def tensors_of(model):
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


# --- perturbation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [0.0, 0.05, 0.3])
def test_an_action_moves_by_at_most_phi_and_stays_in_bounds(phi):
    network = Perturbation(3, 2, [16], phi)
    with th.no_grad():
        network.network[-1].bias.copy_(th.tensor([100.0, -100.0]))  # as far as it can
    actions = th.rand(50, 4, 2) * 2 - 1
    moved = network(th.randn(50, 3), actions)
    expected = (actions + phi * th.tensor([1.0, -1.0])).clamp(-1, 1)
    assert th.allclose(moved, expected, atol=1e-6)
    assert moved.abs().max() <= 1


def test_the_bound_holds_for_what_it_does_in_the_environment():
    model = make_bcq(policy_kwargs={"phi": 0.05}, learning_rate=1e-2).learn(30)
    observations = th.randn(40, 3)
    proposed = th.tanh(model.behavior.sample(observations, 5))
    with th.no_grad():
        assert (model.actor(observations, proposed) - proposed).abs().max() <= 0.05 + 1e-6


# --- target ---------------------------------------------------------------------------------------


def batch_of(rewards, dones):
    n = len(rewards)
    return ReplayBufferSamples(
        observations=th.zeros(n, 3),
        actions=th.zeros(n, 2),
        next_observations=th.zeros(n, 3),
        dones=th.tensor(dones).view(-1, 1),
        rewards=th.tensor(rewards).view(-1, 1),
    )


def test_target_by_hand(monkeypatch):
    """Two critics on three proposals: minimum and maximum are mixed per action, then the best."""
    model = make_bcq(n_target_samples=3, target_mix=0.75, gamma=0.9)
    table = th.tensor([[[1.0, 3.0, 0.0]] * 2, [[5.0, 2.0, 9.0]] * 2])  # [K, B, p]
    asked = []

    def critic(pairs):
        asked.append(pairs)
        return table.flatten(1)

    monkeypatch.setattr(model, "critic_target", critic)
    target = model._target(batch_of([0.5, -1.0], [0.0, 1.0]))
    # 0.75 min + 0.25 max = [2.0, 2.25, 2.25]
    assert target.tolist() == pytest.approx([0.5 + 0.9 * 2.25, -1.0])
    assert not target.requires_grad
    assert asked[0].shape == (6, 5)


def test_target_actions_are_the_target_networks_perturbation_of_proposals(monkeypatch):
    model = make_bcq(policy_kwargs={"phi": 0.3})
    with th.no_grad():
        model.behavior.decoder[-1].weight.zero_()
        model.behavior.decoder[-1].bias.zero_()  # every proposal is 0
        model.actor.network[-1].bias.fill_(-100.0)
        model.actor_target.network[-1].bias.fill_(100.0)
    seen = []
    critic = model.critic_target.forward
    monkeypatch.setattr(model.critic_target, "forward", lambda x: seen.append(x) or critic(x))
    model._target(batch_of([0.0], [0.0]))
    assert th.allclose(seen[0][:, 3:], th.full((10, 2), 0.3))


# --- update ---------------------------------------------------------------------------------------


def test_actor_loss_is_minus_the_first_critic(monkeypatch):
    model = make_bcq()
    observations = th.randn(8, 3)
    with th.no_grad():
        model.critic.stacked[-1].bias[1] -= 5.0  # the minimum over critics would be the second
    monkeypatch.setattr(model.behavior, "sample", lambda o, n: th.zeros(len(o), n, 2))
    actions = model.actor(observations, th.zeros(8, 1, 2))
    expected = -first_q(model.critic, observations, actions).mean()
    assert model._actor_loss(observations).item() == pytest.approx(expected.item())
    both = model.critic(th.cat([observations, actions.squeeze(1)], -1))
    assert expected.item() == pytest.approx(-both[0].mean().item(), abs=1e-5)
    assert (both[0] > both[1]).all()


@pytest.mark.parametrize("part", ["critic", "actor", "behavior"])
def test_each_optimiser_moves_its_own_network_only(part):
    model = make_bcq(tau=0.0)
    for name, optimizer in model._optimizers().items():
        optimizer.param_groups[0]["lr"] = 1e-2 if name == part else 0.0
    before = tensors_of(model)
    model._update(32)
    assert changed(before, tensors_of(model)) == {part}


def test_the_perturbation_sees_the_critics_after_their_step():
    gradients = []
    for rate in (0.0, 0.5):
        model = make_bcq()
        model._optimizers()["critic"].param_groups[0]["lr"] = rate
        th.manual_seed(0)
        model._update(32)
        gradients.append(th.cat([p.grad.flatten() for p in model.actor.parameters()]))
    assert not th.allclose(*gradients, rtol=1e-2)


def test_targets_follow_by_tau():
    model = make_bcq(tau=0.25)
    before = tensors_of(model)
    model._update(32)
    after = tensors_of(model)
    for part in ("actor", "critic"):
        name = next(n for n in before if n.startswith(f"{part}.") and n.endswith("weight"))
        target = name.replace(f"{part}.", f"{part}_target.", 1)
        expected = 0.75 * before[target] + 0.25 * after[name]
        assert th.allclose(after[target], expected, atol=1e-6)


# --- acting ---------------------------------------------------------------------------------------


def test_acting_takes_the_best_candidate_of_the_first_critic():
    model = make_bcq(policy_kwargs={"n_eval_samples": 50})
    observations = th.randn(6, 3)
    policy = model.policy
    with th.no_grad():
        latents = policy.eval_latents.expand(6, -1, -1)
        candidates = policy.actor(
            observations, th.tanh(policy.behavior.decode(observations, latents))
        )
        values = first_q(policy.critic, observations, candidates)
        expected = candidates[th.arange(6), values.argmax(-1)]
        assert th.equal(policy._predict(observations, deterministic=True), expected)
    assert policy.eval_latents.abs().max() <= 0.5


# --- arguments ------------------------------------------------------------------------------------


def learns_differently(*expected, **changes):
    before = tensors_of(make_bcq().learn(3))
    assert set(expected) <= changed(before, tensors_of(make_bcq(**changes).learn(3)))


@pytest.mark.parametrize(
    ("parts", "changes"),
    [
        (("critic",), {"gamma": 0.5}),
        (("critic_target", "actor_target"), {"tau": 0.5}),
        (("critic",), {"n_target_samples": 3}),
        (("critic",), {"target_mix": 0.2}),
        (("critic", "actor", "behavior"), {"batch_size": 31}),
        (("critic", "actor", "behavior"), {"learning_rate": 1e-2}),
        (("actor",), {"policy_kwargs": {"phi": 0.2}}),
    ],
    ids=str,
)
def test_argument_reaches_its_place(parts, changes):
    learns_differently(*parts, **changes)


def test_defaults_are_those_of_the_official_code():
    model = BCQ(dataset=make_data(), device="cpu")
    assert (model.batch_size, model.gamma, model.tau) == (100, 0.99, 0.005)
    assert (model.n_target_samples, model.target_mix, model.policy.phi) == (10, 0.75, 0.05)
    assert {o.param_groups[0]["lr"] for o in model._optimizers().values()} == {1e-3}
    assert model.policy.n_eval_samples == 100
    assert model.actor.network[0].out_features == 400
    assert model.behavior.encoder[0].out_features == 750
    assert BCQ.PRESETS["neurips2019"]["policy_kwargs"]["n_eval_samples"] == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_mix": 2}, "BCQ: target_mix=2 is out of range"),
        ({"n_target_samples": 0}, "n_target_samples=0"),
        ({"capture": True}, "BCQ: capture=True on device cpu"),
        ({"policy_kwargs": {"phi": -1}}, "BCQPolicy: phi=-1"),
        ({"policy_kwargs": {"n_eval_samples": 0}}, "n_eval_samples=0"),
    ],
    ids=str,
)
def test_out_of_range_arguments_are_refused(changes, message):
    with pytest.raises(RefusedError, match=message):
        make_bcq(**changes)


def test_every_policy_argument_is_saved():
    given = set(inspect.signature(MlpPolicy.__init__).parameters) - {"self"}
    assert set(make_bcq().policy._get_constructor_parameters()) == given
