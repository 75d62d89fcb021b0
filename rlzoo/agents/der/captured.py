"""Updates that never wait for the device; on CUDA the whole of one is a graph.

In such an update the batch is drawn, the gradient step taken and the priorities written on the
device (:mod:`rlzoo.agents.der.device_replay`). What was added is sent before it, what is logged is
summed there and read now and then.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Literal

import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch.optim import Optimizer

from rlzoo.agents.der.device_replay import DeviceReplay
from rlzoo.agents.der.policies import DERPolicy
from rlzoo.agents.der.prioritized import PrioritizedReplayBuffer, PrioritizedSamples
from rlzoo.core.capture import Captured, adopt_loaded, set_rate, wants_cuda_graph
from rlzoo.core.finite import check_finite
from rlzoo.core.model_file import ModelPath

READ_EVERY = 100
"""Updates after which results are read at the latest, so that what is not finite is seen."""

Step = Callable[[PrioritizedSamples, th.Tensor], tuple[th.Tensor, th.Tensor]]


class DeviceUpdates:
    """Samples, steps and writes priorities on the device; a CUDA graph after a few updates.

    Args:
        replay: What is sampled.
        step: Takes a gradient step for a batch and ``beta`` (a number on the device); returns
            losses ``[B]`` and what is to be summed ``[k]``. Without any synchronisation.
        read: Takes the sums since the last time, on the host, and the number of updates in them.
        graph: Capture a CUDA graph; by default wherever there is CUDA.
    """

    def __init__(
        self,
        replay: DeviceReplay,
        step: Step,
        read: Callable[[th.Tensor, int], None],
        graph: bool | None = None,
    ) -> None:
        self.replay, self._step, self._read = replay, step, read
        self._graph = replay.device.type == "cuda" if graph is None else graph
        self._beta = th.zeros((), dtype=th.float64, device=replay.device)
        self._updates: dict[int, Callable[[], th.Tensor]] = {}
        self._sums: th.Tensor | None = None
        self._n_summed = 0

    def run(self, batch_size: int, beta: float) -> None:
        """Take one update."""
        self.replay.push()
        self._beta.fill_(beta)
        if batch_size not in self._updates:
            update = partial(self._update, batch_size)
            self._updates[batch_size] = Captured(update) if self._graph else update
        results = self._updates[batch_size]()
        self._sums = results.clone() if self._sums is None else self._sums.add_(results)
        self._n_summed += 1
        if self._n_summed >= READ_EVERY:
            self.read()

    def _update(self, batch_size: int) -> th.Tensor:
        batch = self.replay.sample(batch_size)
        losses, results = self._step(batch, self._beta)
        self.replay.update_priorities(batch.indices, losses)
        return results

    def read(self) -> None:
        """Hand over what was summed since the last time; waits for the device."""
        if self._sums is not None:
            sums, n_summed = self._sums.cpu(), self._n_summed
            self._sums, self._n_summed = None, 0
            self._read(sums, n_summed)


class CapturedAlgorithm(OffPolicyAlgorithm):
    """An SB3 agent with prioritised replay, the updates of which may stay on the device.

    The subclass gives the update in parts: gradients, their clipping, and what is logged.
    """

    policy: DERPolicy
    capture: bool | Literal["auto"] = "auto"
    _on_device: DeviceUpdates | None = None
    _given_actions: NDArray[Any] | None = None
    """Chosen by :mod:`rlzoo.agents.der.lockstep`, for the next step."""

    def _differentiate(
        self, batch: PrioritizedSamples, stored: int, beta: float | th.Tensor
    ) -> tuple[th.Tensor, th.Tensor]:
        """Set the gradients; return losses ``[B]``, and loss, gradient norm and mean Q value."""
        raise NotImplementedError

    def _clip(self, norm: th.Tensor) -> None:
        """Scale the gradients down, given their norm."""
        raise NotImplementedError

    def _record(self, sums: th.Tensor, n: int) -> None:
        """Log sums, ``[3]``, over ``n`` updates."""
        raise NotImplementedError

    @property
    def _parameters(self) -> list[th.Tensor]:
        parameters: list[th.Tensor] = self.policy.optimizer.param_groups[0]["params"]
        return parameters  # walking through the modules takes longer

    # ------------------------------------------------------------------ updates

    def _wants_updates_on_device(self) -> bool:
        # VecNormalize changes what is stored with numbers of the host, at every sampling.
        return wants_cuda_graph(self.capture, self.device) and self._vec_normalize_env is None

    def _updates_on_device(self, buffer: PrioritizedReplayBuffer) -> DeviceUpdates | None:
        """Return how to update on the device, or None where the host takes part."""
        if not self._wants_updates_on_device():
            self._leave_device()
        elif self._on_device is None or self._on_device.replay.buffer is not buffer:
            replay = DeviceReplay(buffer, self.device)
            self._on_device = DeviceUpdates(replay, self._step_on_device, self._read_from_device)
        return self._on_device

    def _step_on_device(
        self, batch: PrioritizedSamples, beta: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor]:
        losses, results = self._differentiate(batch, 1, beta)
        self._clip(results[1])
        self.policy.optimizer.step()
        return losses, results

    def _read_from_device(self, sums: th.Tensor, n: int) -> None:
        check_finite({"losses": sums}, self.num_timesteps)
        self._record(sums, n)

    def _synchronize(self) -> None:
        """Log what was summed on the device, and bring priorities back to the buffer."""
        if self._on_device is not None:
            self._on_device.read()
            self._on_device.replay.pull()

    def _leave_device(self) -> None:
        if self._on_device is not None:
            self._synchronize()
            self._on_device.replay.close()
            self._on_device = None

    def _adopt_optimizer(self) -> None:
        """Fit the optimiser to the device; a graph does not know the tensors of another state."""
        self._leave_device()
        adopt_loaded(self.policy.optimizer, wants_cuda_graph(self.capture, self.device))

    # --------------------------------------------------------------- SB3 hooks

    def _update_learning_rate(self, optimizers: list[Optimizer] | Optimizer) -> None:
        rate = self.lr_schedule(self._current_progress_remaining)
        self.logger.record("train/learning_rate", rate)
        set_rate(self.policy.optimizer, rate)  # where a graph reads it, if there is one

    def set_parameters(
        self,
        load_path_or_dict: ModelPath | dict[str, Any],
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """Load parameters as in SB3."""
        super().set_parameters(load_path_or_dict, exact_match, device)  # type: ignore[arg-type]
        self._adopt_optimizer()

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """Return parameters as in SB3; none is a view of a larger tensor, which would be saved."""
        parameters: dict[str, dict[str, Any]] = _whole(super().get_parameters())
        return parameters

    def get_extra_state(self) -> dict[str, Any]:
        """Return nothing, but bring the buffer up to date: the checkpoint reads it next."""
        self._synchronize()
        return {}

    def save_replay_buffer(self, path: str | Path | BufferedIOBase) -> None:
        """Save the replay buffer as in SB3."""
        self._synchronize()
        super().save_replay_buffer(path)

    def dump_logs(self) -> None:
        """Write a line of the log as in SB3."""
        if self._on_device is not None:
            self._on_device.read()
        super().dump_logs()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_on_device", "_given_actions"]


def _whole(state: Any) -> Any:
    """Copy the tensors of a nested state that are a part of a larger one."""
    if isinstance(state, dict):
        return type(state)((key, _whole(value)) for key, value in state.items())
    if isinstance(state, th.Tensor):
        part = state.untyped_storage().nbytes() > state.numel() * state.element_size()
        return state.clone() if part else state
    return state
