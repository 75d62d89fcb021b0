"""CarRacing from latents: the world model, its actions and the counts (paper page, 2.2, 4.3, 8)."""

from __future__ import annotations

import pytest
import torch as th

from rlzoo.agents.observational_dropout.population import Networks
from rlzoo.agents.observational_dropout.stacked import size_of
from rlzoo.core.car_racing import physical
from rlzoo.errors import RefusedError


def test_the_counts_of_the_page() -> None:
    networks = Networks.make("carracing", 16, 3, [10], None)
    assert networks.model.shapes == ((19, 10), (10, 16))
    assert size_of(networks.model.shapes) == 376
    assert size_of(networks.policy_shapes) == 203
    assert networks.n_parameters == 579


def test_no_output_is_half_throttle() -> None:
    given = th.tensor([[0.0, 0, 0], [1, 1, 1], [-1, -1, -1], [3, -3, 0.5]])
    expected = th.tensor([[0, 0.5, 0], [1, 1, 1], [-1, 0, 0], [1, 0, 0.5]])
    assert th.equal(physical(given), expected)


def test_the_world_model_by_hand() -> None:
    model = Networks.make("carracing", 16, 3, [10], None).model
    generator = th.Generator().manual_seed(0)
    weights = [
        (th.randn(1, i, o, generator=generator), th.randn(1, 1, o, generator=generator))
        for i, o in model.shapes
    ]
    z, a = (th.randn(1, 4, n, generator=generator) for n in (16, 3))
    found = model.predict(weights, z, a)
    (w1, b1), (w2, b2) = ((w[0], b[0]) for w, b in weights)
    a = a[0]
    used = th.stack([a[:, 0].clip(-1, 1), (a[:, 1].clip(-1, 1) + 1) / 2, a[:, 2].clip(0, 1)], 1)
    hidden = th.tanh(th.cat([z[0], used], 1) @ w1 + b1)
    th.testing.assert_close(found[0], z[0] + (hidden @ w2 + b2) / 50, rtol=1e-5, atol=1e-5)


def test_other_spaces_are_refused() -> None:
    with pytest.raises(RefusedError, match="16 and 3"):
        Networks.make("carracing", 5, 1, [10], None)
