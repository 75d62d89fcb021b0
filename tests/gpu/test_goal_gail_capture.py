"""GoalGAIL's captured updates equal the eager ones. Needs CUDA; run by ``make test-gpu``.

The same code runs eagerly on a CPU in tests/unit/test_goal_gail_update.py, and the copy of the
replay buffer on a device is tested there in tests/unit/test_goal_gail_relabel.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch as th
from goal_gail_testing import demonstrate, make_agent, point_env, tensors_of

from rlzoo.agents.goal_gail import GoalGAIL
from rlzoo.agents.goal_gail.relabel import GoalBatch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not th.cuda.is_available(), reason="needs CUDA: there is no GPU here"),
]


def make(**kwargs: Any) -> GoalGAIL:
    return make_agent(point_env(4), device="cuda", **kwargs)


@pytest.mark.parametrize("base", ["ddpg", "td3", "sac"])
def test_graphs_train_as_eager_calls_do(base: str) -> None:
    eager, graphs = (make(base=base, capture=c).learn(240) for c in (False, "auto"))
    assert {name for name, _ in graphs._graphs} == {"policy", "disc"}
    assert not eager._graphs
    mine, theirs = tensors_of(eager), tensors_of(graphs)
    for name in mine:
        th.testing.assert_close(mine[name], theirs[name], rtol=1e-2, atol=1e-3)


def test_rows_are_new_in_every_replay() -> None:
    model = make().learn(240)
    for name, size in (("policy", 32), ("disc", 16)):
        graph = model._graphs[name, size]
        first, second = (graph().clone() for _ in range(2))
        assert first.isfinite().all()
        assert not th.equal(first, second)


def test_targets_on_both_devices_agree() -> None:
    gpu = make().learn(80)
    cpu = make_agent(point_env(4))
    cpu.policy.load_state_dict(gpu.policy.state_dict())
    assert cpu.discriminator is not None
    assert gpu.discriminator is not None
    cpu.discriminator.load_state_dict(gpu.discriminator.state_dict())
    batch = gpu._sample_rows(64)
    for model in (cpu, gpu):
        model._gail_now.fill_(0.1)
    same = GoalBatch(*(part.cpu() for part in batch))
    th.testing.assert_close(
        gpu._target(batch, gpu._gail_reward(batch)).cpu(),
        cpu._target(same, cpu._gail_reward(same)), rtol=1e-4, atol=1e-4,
    )  # fmt: skip


def test_a_loaded_agent_captures_anew(tmp_path: Path) -> None:
    make().learn(240).save(tmp_path / "model")
    loaded = GoalGAIL.load(tmp_path / "model", env=point_env(4), device="cuda")
    loaded.set_demonstrations(demonstrate())
    assert not loaded._graphs
    before = tensors_of(loaded)
    loaded.learn(240)
    after = tensors_of(loaded)
    assert any(not th.equal(before[name], after[name]) for name in before)
    assert all(tensor.isfinite().all() for tensor in after.values())


def test_an_exchanged_buffer_is_captured_anew(tmp_path: Path) -> None:
    model = make().learn(240)
    model.save_replay_buffer(tmp_path / "rows")
    old = model._graphs["policy", 32]
    model.load_replay_buffer(tmp_path / "rows")
    model.learn(80, reset_num_timesteps=False)
    assert model._graphs["policy", 32] is not old
