"""PPO through the chain of predictions: replays, gradients, peeks, files (page, 2.7, test 12)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy

from rlzoo import ObsDropoutPPO, make_vec
from rlzoo.agents.observational_dropout.actor_critic import ObsDropoutActorCritic
from rlzoo.agents.observational_dropout.chain import Chunk, ChunkBuffer, replay
from rlzoo.agents.observational_dropout.recursion import believe
from rlzoo.core.simulator_vec import SimulatorVecEnv
from rlzoo.core.swingup import CartPoleSwingUp
from rlzoo.errors import RefusedError

GRID = "rlzoo/AppleFireGrid-v0"
SMALL: dict[str, Any] = {
    "n_steps": 24, "chunk_length": 8, "batch_size": 32, "n_epochs": 2, "peek_prob": 0.3, "seed": 0,
    "device": "cpu",
    "policy_kwargs": {"net_arch": [6], "model_arch": [7], "critic_arch": [5]},
}  # fmt: skip


def swing_up(n_envs: int = 4, max_steps: int = 30) -> SimulatorVecEnv:
    return SimulatorVecEnv(CartPoleSwingUp(True, max_steps), n_envs)


def make(env: Any = None, **kwargs: Any) -> ObsDropoutPPO:
    return ObsDropoutPPO("MlpPolicy", swing_up() if env is None else env, **{**SMALL, **kwargs})


def policy_of(discrete: bool = False, kind: str = "residual") -> ObsDropoutActorCritic:
    """Random weights in double precision, none of them small."""
    box = spaces.Box(-1, 1, (3 if kind == "residual" else 5,), np.float32)
    actions: Any = spaces.Discrete(3) if discrete else spaces.Box(-1, 1, (1,), np.float32)
    made = ObsDropoutActorCritic(
        box, actions, net_arch=[6], model_arch=[7], critic_arch=[5], world_model=kind
    ).double()
    generator = th.Generator().manual_seed(0)
    with th.no_grad():
        for parameter in made.parameters():
            parameter.copy_(th.randn(parameter.shape, generator=generator, dtype=th.float64) * 0.7)
    return made


def chunk_of(policy: ObsDropoutActorCritic, peeks: Any, batch: int = 2) -> tuple[Chunk, th.Tensor]:
    """Random observations; the same peeks in all rows of the batch."""
    generator = th.Generator().manual_seed(1)

    def draw(*size: int) -> th.Tensor:
        return th.randn(*size, generator=generator, dtype=th.float64)

    flags = th.as_tensor(peeks).bool().unsqueeze(1).expand(-1, batch)
    steps, size = len(flags), policy.n_observations
    chunk = Chunk(draw(steps, batch, size), flags, draw(batch, size))
    actions = draw(steps * batch, 1)
    if policy.networks.discrete:
        return chunk, (actions.flatten() * 10).long() % 3
    return chunk, actions


# ------------------------------------------------------------------- the chain


@pytest.mark.parametrize("discrete", [False, True])
def test_a_replay_step_by_step(discrete: bool) -> None:
    policy = policy_of(discrete)
    chunk, actions = chunk_of(policy, [0, 1, 0, 0, 1, 1, 0], batch=3)
    told = policy.told(actions).view(7, 3, -1)
    _, predict = policy.bind()
    found = replay(chunk, told, predict)
    for row in range(3):
        believed = chunk.first[row]
        for step in range(7):
            x = chunk.observations[step, row] if chunk.peeks[step, row] else believed
            th.testing.assert_close(found[step, row], x)
            believed = predict(x.view(1, 1, -1), told[step, row].view(1, 1, -1)).view(-1)
    assert th.equal(found[1], chunk.observations[1])
    assert th.equal(found[0], chunk.first)
    if not discrete:
        assert float(told.abs().max()) == 1


def loss_of(policy: ObsDropoutActorCritic, chunk: Chunk, actions: th.Tensor) -> th.Tensor:
    """A loss of all log-probabilities, weighted as advantages would."""
    _, log_prob, entropy = policy.evaluate_actions(chunk, actions)
    weights = th.linspace(-1, 1, len(log_prob), dtype=th.float64)
    return (weights * log_prob + 0.1 * entropy).mean()


@pytest.mark.parametrize("kind", ["residual", "cartpole"])
@pytest.mark.parametrize("discrete", [False, True])
def test_gradients_through_ten_steps_by_finite_differences(discrete: bool, kind: str) -> None:
    """Of the loss by every weight of the world model, with nothing seen."""
    if discrete and kind == "cartpole":
        pytest.skip("the swing-up has one continuous action")
    policy = policy_of(discrete, kind)
    chunk, actions = chunk_of(policy, [0] * 10)
    policy.zero_grad()
    loss_of(policy, chunk, actions).backward()  # type: ignore[no-untyped-call]
    checked = 0
    for parameter in policy.model_layers.parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) > 1e-6
        flat, slopes = parameter.data.view(-1), parameter.grad.view(-1)
        for index in range(len(flat)):
            kept, step, values = float(flat[index]), 1e-6, []
            for sign in (1, -1):
                flat[index] = kept + sign * step
                with th.no_grad():
                    values.append(float(loss_of(policy, chunk, actions)))
            flat[index] = kept
            slope = (values[0] - values[1]) / (2 * step)
            assert float(slopes[index]) == pytest.approx(slope, abs=1e-7, rel=1e-4)
            checked += 1
    assert checked == sum(p.numel() for p in policy.model_layers.parameters()) > 40


@pytest.mark.parametrize("peek", [0, 3, 7])
def test_a_peek_cuts_the_chain(peek: int) -> None:
    """Nothing before a peek has a derivative in what is believed from there on: exactly none."""
    policy = policy_of()
    peeks = [0] * 8
    peeks[peek] = 1
    chunk, actions = chunk_of(policy, peeks)
    told = policy.told(actions).view(8, 2, 1).requires_grad_()
    observations = chunk.observations.clone().requires_grad_()
    x = replay(Chunk(observations, chunk.peeks, chunk.first), told, policy.bind()[1])
    for step in range(8):
        by_action, by_sight = th.autograd.grad(
            x[step].sum(), (told, observations), retain_graph=True, allow_unused=True,
            materialize_grads=True,
        )  # fmt: skip
        first = peek if step >= peek else 0
        assert not by_action[:first].any()
        assert not by_action[step:].any()
        assert by_action[first:step].abs().amin((0, 2)).gt(0).all() if step > first else True
        seen = by_sight.abs().amax((1, 2)) > 0
        assert seen.tolist() == [step >= peek and t == peek for t in range(8)]
    weights = list(policy.model_layers.parameters())
    slopes = th.autograd.grad(x[peek].sum(), weights, allow_unused=True, materialize_grads=True)
    assert not any(slope.any() for slope in slopes)


def test_the_first_belief_of_a_chunk_is_data() -> None:
    policy = policy_of()
    chunk, actions = chunk_of(policy, [0] * 4)
    first = chunk.first.clone().requires_grad_()
    x = replay(
        Chunk(chunk.observations, chunk.peeks, first), policy.told(actions).view(4, 2, 1),
        policy.bind()[1],
    )  # fmt: skip
    assert x[1].requires_grad
    (slope,) = th.autograd.grad(x.sum(), first, allow_unused=True, materialize_grads=True)
    assert not slope.any()


def test_with_everything_in_view_the_model_learns_nothing() -> None:
    model = make(peek_prob=1.0)
    before = [p.clone() for p in model.policy.model_layers.parameters()]
    policy_before = model.policy.policy_layers[0].weight.clone()
    model.learn(200)
    after = list(model.policy.model_layers.parameters())
    assert all(th.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not th.equal(policy_before, model.policy.policy_layers[0].weight)
    blind = make(peek_prob=0.2)
    kept = blind.policy.model_layers[0].weight.clone()
    blind.learn(200)
    assert not th.equal(kept, blind.policy.model_layers[0].weight)


# ------------------------------------------------------------------- a rollout


@pytest.mark.parametrize("env", [None, "CartPole-v1", GRID])
def test_a_rollout_replayed_with_the_same_weights_is_itself(env: str | None) -> None:
    """Log-probabilities and values of the first minibatch are those of the rollout."""
    model = make(None if env is None else make_vec(env, 3), n_epochs=1, learning_rate=1e-12)
    model.learn(72)
    buffer = model.rollout_buffer
    assert 0.2 < buffer.peeks.mean() < 0.7
    starts = buffer.episode_starts.astype(bool)
    assert starts.sum() > 3
    assert buffer.peeks[starts].all()
    seen = 0
    for samples in buffer.get(16):
        values, log_probs, _ = model.policy.evaluate_actions(
            samples.observations, samples.actions if env is None else samples.actions.flatten()
        )
        th.testing.assert_close(log_probs, samples.old_log_prob, atol=1e-4, rtol=1e-4)
        th.testing.assert_close(values, samples.old_values, atol=1e-5, rtol=1e-4)
        seen += len(values)
    assert seen == buffer.peeks.size


def test_peeks_of_a_rollout_are_never_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The update uses the flags of the buffer, and no generator but that of the order of chunks."""
    model = make(n_epochs=3)
    used: list[th.Tensor] = []
    evaluate = model.policy.evaluate_actions

    def spy(chunk: Chunk, actions: th.Tensor) -> Any:
        used.append(chunk.peeks.clone())
        return evaluate(chunk, actions)

    monkeypatch.setattr(model.policy, "evaluate_actions", spy)
    peeks: list[Any] = []
    train = model.train

    def keep() -> None:
        peeks.append(model.rollout_buffer.peeks.copy())
        state = th.get_rng_state()
        train()
        assert th.equal(state, th.get_rng_state())
        np.testing.assert_array_equal(model.rollout_buffer.peeks, peeks[-1])

    monkeypatch.setattr(model, "train", keep)
    model.learn(96)
    chunks = peeks[0].reshape(3, 8, 4).transpose(0, 2, 1).reshape(12, 8)
    given = th.cat([flags.T for flags in used]).numpy()
    assert len(given) == 3 * 12
    assert sorted(map(tuple, given.tolist())) == sorted(map(tuple, chunks.tolist() * 3))


def test_chunks_are_stretches_of_one_environment() -> None:
    buffer = ChunkBuffer(
        6, spaces.Box(-1, 1, (1,)), spaces.Box(-1, 1, (1,)), "cpu", n_envs=2, chunk_length=3
    )
    buffer.reset()
    for step in range(6):
        numbers = np.array([[10.0 * step], [10.0 * step + 1]], np.float32)
        buffer.remember(np.array([step % 2 == 0, True]), numbers + 0.5)
        both = th.from_numpy(numbers[:, 0])
        buffer.add(numbers, numbers, numbers[:, 0], np.zeros(2), both, both)
    buffer.compute_returns_and_advantage(th.zeros(2), np.zeros(2))
    found = {}
    for samples in buffer.get(3):
        chunk = samples.observations
        assert chunk.observations.shape == (3, 1, 1)
        name = int(chunk.observations[0, 0, 0])
        found[name] = chunk.observations.flatten().tolist()
        assert samples.actions.flatten().tolist() == found[name]
        assert samples.old_log_prob.tolist() == found[name]
        assert float(chunk.first) == name + 0.5
        flags = [True] * 3 if name % 10 else [(name // 10 + k) % 2 == 0 for k in range(3)]
        assert chunk.peeks.flatten().tolist() == flags
    assert found == {0: [0, 10, 20], 30: [30, 40, 50], 1: [1, 11, 21], 31: [31, 41, 51]}
    (whole,) = buffer.get(None)
    assert whole.observations.observations.shape == (3, 4, 1)
    assert len(whole.returns) == 12


def test_what_a_model_that_ran_away_lost_is_seen_again() -> None:
    model = make(peek_prob=0.0)
    with th.no_grad():
        model.policy.model_layers[-1].bias.fill_(th.inf)
    model._setup_learn(24 * 4)
    model.collect_rollouts(
        model.env,
        model._init_callback(None),
        model.rollout_buffer,
        24,  # type: ignore[arg-type]
    )
    assert model.rollout_buffer.peeks.all()
    assert np.isfinite(model.rollout_buffer.believed).all()
    (samples,) = model.rollout_buffer.get(None)
    assert samples.old_log_prob.isfinite().all()


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_share_of_peeks_in_training(p: float) -> None:
    model = make(swing_up(20, 1_000), n_steps=80, peek_prob=p).learn(1, log_interval=None)
    later = model.rollout_buffer.peeks[model.rollout_buffer.episode_starts == 0]
    error = 4 * np.sqrt(p * (1 - p) / later.size)
    assert later.mean() == pytest.approx(p, abs=error + 1e-12)
    assert model.logger.name_to_value["rollout/peek_fraction"] == pytest.approx(
        model.rollout_buffer.peeks.mean()
    )


def test_a_time_limit_is_no_end() -> None:
    """The value of the last observation is added, as in SB3."""
    model = make(swing_up(2, 5), gamma=0.9, peek_prob=1.0)
    with th.no_grad():
        for parameter in model.policy.critic.parameters():
            parameter.zero_()
        model.policy.critic[-1].bias.fill_(100.0)  # type: ignore[union-attr, operator]
    model._setup_learn(48)
    callback = model._init_callback(None)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 24)  # type: ignore[arg-type]
    rewards = model.rollout_buffer.rewards
    assert (rewards[4::5] > 85).all()
    assert np.abs(np.delete(rewards, slice(4, None, 5), 0)).max() <= 1


# ---------------------------------------------------------------------- acting


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
def test_predict_draws_only_where_it_should(env: str) -> None:
    model = make(env, peek_prob=0.0)
    observations = np.zeros((2_000, model.policy.n_observations), np.float32)
    fixed, state = model.predict(observations, deterministic=True)
    assert (fixed == fixed[0]).all()
    drawn, _ = model.predict(observations)
    if env == "Pendulum-v1":  # torques within 2, clipped
        assert float(np.abs(drawn).max()) == 2
        assert drawn.std() == pytest.approx(2 * np.exp(-0.5), rel=0.25)
    else:
        assert 0.4 < drawn.mean() < 0.6
    assert state is not None
    # Blind from here on: other observations change nothing.
    other = model.predict(observations + 3, state, deterministic=True)[0]
    np.testing.assert_array_equal(other, model.predict(observations, state, deterministic=True)[0])
    assert np.isfinite(evaluate_policy(model, make_vec(env, 2), 2)[0])


def test_acting_is_what_a_rollout_does() -> None:
    policy = policy_of().float()
    observation, believed = th.randn(5, 3), th.randn(5, 3)
    peek = th.tensor([True, False, True, False, False])
    th.manual_seed(0)
    actions, values, log_probs, prediction = policy.step(observation, believed, peek)
    act, predict = policy.bind()
    x = believe(observation, believed, peek)
    normal = th.distributions.Normal(act(x[None])[0], policy.log_std.exp())
    th.testing.assert_close(log_probs, normal.log_prob(actions).sum(-1))
    th.testing.assert_close(values, policy.predict_values(observation).squeeze(-1))
    th.testing.assert_close(prediction, predict(x[None], actions.clamp(-1, 1)[None])[0])


def test_dreams_and_swapped_models() -> None:
    model = make().learn(96)
    dream = model.dream_env(2)
    dream.reset()
    assert np.isfinite(dream.step(np.ones((2, 1)))[0]).all()
    swapped = model.swap_models(n_episodes=5)
    assert list(swapped) == ["learnt", "zero", "true"]
    assert make(make_vec(GRID)).policy.world_model == "residual"


# ------------------------------------------------------------- arguments, files


@pytest.mark.parametrize(
    "changed",
    [
        {"learning_rate": 0.1}, {"peek_prob": 0.9}, {"chunk_length": 4}, {"n_steps": 48},
        {"batch_size": 8}, {"n_epochs": 1}, {"gamma": 0.5}, {"gae_lambda": 0.5},
        {"clip_range": 1e-4}, {"clip_range_vf": 1e-3}, {"normalize_advantage": False},
        {"ent_coef": 0.5}, {"vf_coef": 0.01}, {"max_grad_norm": 1e-3}, {"target_kl": 1e-9},
        {"world_model": "residual"}, {"seed": 1},
        {"policy_kwargs": {**SMALL["policy_kwargs"], "critic_arch": [4]}},
        {"policy_kwargs": {**SMALL["policy_kwargs"], "model_arch": [4]}},
        {"policy_kwargs": {**SMALL["policy_kwargs"], "net_arch": [4]}},
        {"policy_kwargs": {**SMALL["policy_kwargs"], "log_std_init": 0.0}},
    ],
    ids=lambda changed: "-".join([*changed, *map(str, changed.values())]),
)  # fmt: skip
def test_every_argument_changes_what_is_learned(changed: dict[str, Any]) -> None:
    def learned(**kwargs: Any) -> list[float]:
        model = (
            make(learning_rate=1e-2, **kwargs) if "learning_rate" not in kwargs else make(**kwargs)
        )
        model.learn(192)
        return [float(p.detach().sum()) for p in model.policy.parameters()]

    usual = learned()
    assert learned(**changed) != usual
    assert learned() == usual


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_steps": 20}, "multiple"), ({"batch_size": 4}, "one chunk"), ({"peek_prob": 2}, "peek"),
        ({"world_model": "grid_conv"}, "world_model"), ({"gamma": 2}, "gamma"),
    ],
)  # fmt: skip
def test_refusals(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError, match=words) as refused:
        make(**arguments)
    assert len(str(refused.value).splitlines()) <= 3


def test_a_file_holds_everything(tmp_path: Path) -> None:
    model = make().learn(96)
    model.save(tmp_path / "model")
    loaded = ObsDropoutPPO.load(tmp_path / "model", env=swing_up(), device="cpu")
    assert th.equal(loaded.policy.vector, model.policy.vector)
    for copy in (model, loaded):
        copy.set_env(swing_up())
        copy.env.seed(3)  # type: ignore[union-attr]
        th.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002
        copy.learn(96, reset_num_timesteps=False)
    mine, theirs = model.policy.state_dict(), loaded.policy.state_dict()
    assert all(th.equal(value, theirs[name]) for name, value in mine.items())
    assert model.num_timesteps == loaded.num_timesteps == 192
