"""The bottleneck generalises to unseen backgrounds where the plain network does not; broken, not.

The toy experiment of the IBAC-SNI paper at 64 training signals, 64 backgrounds per class, 20,000
samples seen (page, section 8).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch as th

from rlzoo.agents.ibac_sni import toy
from rlzoo.agents.ibac_sni.bottleneck import Gaussian
from rlzoo.agents.ibac_sni.toy import Scores, make_signals, train_toy

pytestmark = pytest.mark.timeout(1800)  # a minute or two of CPU, on machines that may be busy

SEEDS = range(5)
POINTS = 64


@cache
def plain() -> list[Scores]:
    return [train_toy("none", seed, POINTS) for seed in SEEDS]


def is_better(found: list[Scores]) -> bool:
    """Four of five seeds, and by more than chance; 0.24 nats were seen on average."""
    fits = max(scores.train for scores in found) < 0.1
    gains = [none.test - scores.test for none, scores in zip(plain(), found, strict=False)]
    return fits and np.mean(np.array(gains) > 0) >= 0.8 and np.mean(gains) > 0.1


def test_the_bottleneck_generalises() -> None:
    assert max(scores.train for scores in plain()) < 0.1
    assert is_better([train_toy("vib", seed, POINTS) for seed in SEEDS])


def test_without_noise_and_kl_there_is_no_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "draw", lambda q, n: q.mu[None])
    assert not is_better([train_toy("vib", seed, POINTS, beta=0.0) for seed in SEEDS[:3]])


def test_a_beta_that_is_far_too_large_learns_nothing() -> None:
    scores = train_toy("vib", 0, POINTS, beta=1.0, samples=5_000)
    assert scores.train == pytest.approx(np.log(toy.N_CLASSES), abs=0.05)


def test_signals() -> None:
    """Same patterns at the same places in both sets, without noise; other backgrounds."""
    data, test = make_signals(3, 2_000, 2)
    again, _ = make_signals(3, 2_000, 2)
    assert th.equal(data.inputs, again.inputs)
    assert th.equal(data.labels, again.labels)
    assert data.inputs.shape == (2_000, 100)
    assert set(data.labels.tolist()) == set(range(5))
    assert len(test.labels) == 200
    for label in range(5):
        ours, theirs = (s.inputs[s.labels == label] for s in (data, test))
        windows = [
            {tuple(row) for row in part.unfold(1, 20, 1).flatten(0, 1).tolist()}
            for part in (ours, theirs)
        ]
        common = windows[0] & windows[1]
        assert len(common) == 1  # the pattern
        pattern = th.tensor(common.pop())
        where = (ours.unfold(1, 20, 1) == pattern).all(-1)
        assert (where.sum(1) == 1).all()
        assert len(set(where.long().argmax(1).tolist())) == 3


def test_the_latent_is_drawn_in_training_only() -> None:
    net = toy.ToyNet(is_stochastic=True)
    inputs = make_signals(0, 8, 2)[0].inputs
    assert not th.equal(net(inputs)[0], net(inputs)[0])
    net.eval()
    assert th.equal(net(inputs)[0], net(inputs)[0])
    hidden = net.latent(net.trunk(inputs[:, None]))
    q = Gaussian(hidden[:, :256], th.nn.functional.softplus(hidden[:, 256:]), hidden)
    expected = th.distributions.kl_divergence(
        th.distributions.Normal(q.mu, q.sigma), th.distributions.Normal(0.0, 1.0)
    ).sum(1)
    th.testing.assert_close(net(inputs)[1], expected)
