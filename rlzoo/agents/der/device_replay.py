"""A copy of the replay buffer on the device, where batches are drawn and priorities live.

For an update that is captured as a CUDA graph (:mod:`rlzoo.core.capture`): nothing in
:meth:`DeviceReplay.sample` and :meth:`DeviceReplay.update_priorities` waits for the device or
depends on values there. Storage, and which entries are ripe, stay with the buffer in NumPy, which
checkpoints know; :meth:`DeviceReplay.push` sends what was added, :meth:`DeviceReplay.pull` brings
priorities back.

Instead of the sum tree there are running sums over all priorities, and a binary search: two kernels
for up to a million entries, against 2 x 17 for the levels of a tree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray

from rlzoo.agents.der.frames import FrameReplayBuffer
from rlzoo.agents.der.prioritized import PrioritizedReplayBuffer, PrioritizedSamples
from rlzoo.core.replay_files import row_arrays


class DeviceReplay:
    """What :class:`PrioritizedReplayBuffer` samples, sampled on the device.

    Only one copy may belong to a buffer at a time, and the buffer must not be sampled itself:
    its priorities are out of date until :meth:`pull`.

    Args:
        buffer: Rows and ripeness.
        device: Where the copy is; it takes as much memory there as the buffer's rows.
        uniform: Draws numbers from [0, 1); by default ``torch.rand``.
    """

    def __init__(
        self,
        buffer: PrioritizedReplayBuffer,
        device: th.device | str,
        uniform: Callable[..., th.Tensor] | None = None,
    ) -> None:
        self.buffer, self.device, self._uniform = buffer, th.device(device), uniform or th.rand
        self._rows = {name: self._copy(array) for name, array in row_arrays(buffer).items()}
        n_leaves = buffer.sum_tree.n_leaves
        self.priorities = self._copy(buffer.sum_tree.get(np.arange(n_leaves)))
        """Of every entry, 0 where it cannot be sampled, ``[n]``, float64."""
        self.largest = th.tensor(buffer.max_priority, dtype=th.float64, device=self.device)
        if isinstance(buffer, FrameReplayBuffer):
            self._extras = self._copy(buffer.extra_frames)
            self._n_extras = buffer.n_extras
        self._n_added = buffer.n_added
        self._steps = th.arange(buffer.n_steps, device=self.device)
        factors = buffer.gamma ** th.arange(buffer.n_steps + 1, dtype=th.float64)
        self._factors = factors.to(self.device)
        buffer.sum_tree.changes = {}

    def _copy(self, array: NDArray[Any]) -> th.Tensor:
        return th.tensor(array, device=self.device)  # never a view, also on a CPU

    def _sent(self, array: NDArray[Any]) -> th.Tensor:
        """Return a small array that nobody changes, on the device; without waiting for it."""
        return th.from_numpy(array).to(self.device, non_blocking=True)

    # ----------------------------------------------------------------- exchange

    def push(self) -> None:
        """Send rows and priorities that have changed in the buffer; before every update."""
        buffer = self.buffer
        # The newest row once more: it changes when it is followed, or when its episode is cut.
        n_new = min(buffer.n_added - self._n_added + 1, buffer.size())
        rows = (buffer.pos - 1 - np.arange(n_new)) % buffer.buffer_size
        self._send(self._rows, row_arrays(buffer), rows)
        self._n_added = buffer.n_added
        if isinstance(buffer, FrameReplayBuffer) and buffer.n_extras > self._n_extras:
            total = len(buffer.extra_frames)
            n_new = min(buffer.n_extras - self._n_extras, total)
            places = (buffer.n_extras - 1 - np.arange(n_new)) % total
            self._send({"": self._extras}, {"": buffer.extra_frames}, places)
            self._n_extras = buffer.n_extras
        self._push_priorities()

    def _send(
        self, targets: dict[str, th.Tensor], arrays: dict[str, NDArray[Any]], rows: NDArray[Any]
    ) -> None:
        at = self._sent(rows)
        for name, array in arrays.items():
            targets[name].index_copy_(0, at, self._sent(array[rows]))

    def _push_priorities(self) -> None:
        """Take over what the buffer has set: 0, or the largest priority, which it does not know."""
        changes = self.buffer.sum_tree.changes
        if changes:
            leaves = self._sent(np.fromiter(changes, np.int64))
            alive = self._sent(np.fromiter(changes.values(), np.float64) > 0)
            self.priorities.index_copy_(0, leaves, alive * self.largest)
            changes.clear()

    def pull(self) -> None:
        """Bring the priorities back to the buffer, for a checkpoint or for sampling there."""
        self.push()
        tree = self.buffer.sum_tree
        tree.changes = None
        tree.set(np.arange(tree.n_leaves), self.priorities.cpu().numpy())
        tree.changes = {}
        self.buffer.max_priority = float(self.largest)

    def close(self) -> None:
        """Give the buffer back; this copy is not to be used any more."""
        self.buffer.sum_tree.changes = None

    # ----------------------------------------------------------------- sampling

    def sample(self, batch_size: int) -> PrioritizedSamples:
        """Draw as :meth:`PrioritizedReplayBuffer.sample` does; something has to be ripe."""
        sums = self.priorities.cumsum(0)
        total = sums[-1]
        segment = th.arange(batch_size, device=self.device)
        uniform = self._uniform(batch_size, dtype=th.float64, device=self.device)
        mass = (segment + uniform) * (total / batch_size)
        leaves = th.searchsorted(sums, mass, right=True).clamp_(max=len(sums) - 1)
        found = self.priorities[leaves]
        # Sums that are formed in parallel may be rounded so that a search ends at a priority of 0.
        leaves = th.where(found > 0, leaves, self.priorities.argmax())
        return self._batch(leaves, self.priorities[leaves] / total)

    def _batch(
        self, leaves: th.Tensor, probabilities: th.Tensor, agents: th.Tensor | None = None
    ) -> PrioritizedSamples:
        """Gather entries; where rows of several agents lie one behind the other, of ``agents``."""
        data, size, n = self._rows, self.buffer.buffer_size, self.buffer.n_steps
        first = th.zeros_like(leaves) if agents is None else agents * size
        rows, envs = leaves // self.buffer.n_envs, leaves % self.buffer.n_envs
        window, columns = (rows[:, None] + self._steps) % size + first[:, None], envs[:, None]
        going_on = (data["dones"][window, columns] > 0).cumsum(1) == 0
        steps = (going_on.sum(1) + 1).clamp(max=n)
        inside = self._steps < steps[:, None]
        rewards = data["rewards"][window, columns] * self._factors[:-1] * inside
        last = (rows + steps - 1) % size + first
        rows = rows + first
        dones = data["dones"][last, envs] * (1 - data["timeouts"][last, envs])
        return PrioritizedSamples(
            observations=self._observations("observations", "stacks", rows, envs, agents),
            actions=data["actions"][rows, envs],
            next_observations=self._observations(
                "next_observations", "next_stacks", last, envs, agents
            ),
            dones=dones[:, None],
            rewards=rewards.sum(1, keepdim=True).float(),
            discounts=self._factors[steps, None].float(),
            probabilities=probabilities,
            indices=leaves,
        )

    def _observations(
        self,
        whole: str,
        stacks: str,
        rows: th.Tensor,
        envs: th.Tensor,
        agents: th.Tensor | None,
    ) -> th.Tensor:
        buffer = self.buffer
        if not isinstance(buffer, FrameReplayBuffer):
            return self._rows[whole][rows, envs]
        # As FrameReplayBuffer: a row, blank (-1), or an extra frame.
        pointers = self._rows[stacks][rows, envs].long()
        frames, extras = pointers.clamp(min=0), (-2 - pointers).clamp(0, len(buffer.extra_rows) - 1)
        if agents is not None:
            frames = frames + (agents * buffer.buffer_size)[:, None]
            extras = extras + (agents * len(buffer.extra_rows))[:, None]
        stored, extra = self._rows["frames"][frames, envs[:, None]], self._extras[extras]
        kind = pointers[(...,) + (None,) * (stored.dim() - 2)]
        stack = th.where(kind >= 0, stored, extra * (kind < -1))
        return stack.reshape(-1, *buffer.obs_shape)

    def update_priorities(self, indices: th.Tensor, losses: th.Tensor) -> None:
        """Set ``(loss + 1e-10) ** omega``, as :meth:`PrioritizedReplayBuffer.update_priorities`.

        Args:
            indices: As in the batch, ``[B]``.
            losses: Not weighted, not negative, ``[B]``.
        """
        priorities = (losses.double() + 1e-10) ** self.buffer.exponent
        self.priorities.index_copy_(0, indices, priorities)
        th.maximum(self.largest, priorities.max(), out=self.largest)
