"""The replay buffers of several agents in one copy on the device, sampled together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray

from rlzoo.agents.der.device_replay import DeviceReplay
from rlzoo.agents.der.frames import FrameReplayBuffer
from rlzoo.agents.der.prioritized import PrioritizedReplayBuffer, PrioritizedSamples
from rlzoo.core.replay_files import row_arrays


class StackedReplay(DeviceReplay):
    """:class:`DeviceReplay` for buffers of one layout; rows of one follow those of another.

    Batches have the entries of the first agent, then those of the second, and so on; ``indices``
    are ``[S, B]``, with the numbers that each buffer has for them.

    Args:
        buffers: Of ``S`` agents, with as many rows and environments each.
        device: Where the copy is.
        uniform: Returns ``[S, B]`` numbers in [0, 1), float64.
    """

    def __init__(
        self,
        buffers: Sequence[PrioritizedReplayBuffer],
        device: th.device | str,
        uniform: Callable[[], th.Tensor],
    ) -> None:
        super().__init__(buffers[0], device)
        self.buffers = list(buffers)
        arrays = [row_arrays(buffer) for buffer in buffers]
        self._rows = {name: self._join([found[name] for found in arrays]) for name in arrays[0]}
        trees = [buffer.sum_tree for buffer in buffers]
        leaves = np.arange(trees[0].n_leaves)
        self.priorities = self._copy(np.stack([tree.get(leaves) for tree in trees]))
        """Of every entry, 0 where it cannot be sampled, ``[S, n]``, float64."""
        self.largest = self._copy(np.array([buffer.max_priority for buffer in buffers]))
        self._frames = [buffer for buffer in buffers if isinstance(buffer, FrameReplayBuffer)]
        if self._frames:
            self._extras = self._join([buffer.extra_frames for buffer in self._frames])
        for tree in trees:
            tree.changes = {}
        self._draw = uniform
        self._sent_rows = [buffer.n_added for buffer in buffers]
        self._sent_extras = [buffer.n_extras for buffer in self._frames]
        self._agents = th.arange(len(buffers), device=self.device)

    def _join(self, arrays: Sequence[NDArray[Any]]) -> th.Tensor:
        """Copy arrays of one shape to the device, one behind the other; never twice at a time."""
        shape, dtype = arrays[0].shape, th.from_numpy(arrays[0]).dtype
        joined = th.empty(len(arrays), *shape, dtype=dtype, device=self.device)
        for part, array in zip(joined, arrays, strict=True):
            part.copy_(th.from_numpy(array))
        return joined.flatten(0, 1)

    # ----------------------------------------------------------------- exchange

    def push(self) -> None:
        """Send what has changed in the buffers: one transfer for each kind of array."""
        size, places, news = self.buffer.buffer_size, [], []
        for i, buffer in enumerate(self.buffers):
            # As DeviceReplay: the newest row once more.
            n_new = min(buffer.n_added - self._sent_rows[i] + 1, buffer.size())
            rows = (buffer.pos - 1 - np.arange(n_new)) % size
            places.append(rows + i * size)
            news.append({name: array[rows] for name, array in row_arrays(buffer).items()})
            self._sent_rows[i] = buffer.n_added
        joined = {name: np.concatenate([new[name] for new in news]) for name in self._rows}
        at = self._sent(np.concatenate(places))
        for name, array in joined.items():
            self._rows[name].index_copy_(0, at, self._sent(array))
        self._push_extras()
        self._push_priorities()

    def _push_extras(self) -> None:
        places, frames = [], []
        for i, buffer in enumerate(self._frames):
            total = len(buffer.extra_frames)
            n_new = min(buffer.n_extras - self._sent_extras[i], total)
            at = (buffer.n_extras - 1 - np.arange(n_new)) % total
            places.append(at + i * total)
            frames.append(buffer.extra_frames[at])
            self._sent_extras[i] = buffer.n_extras
        if sum(map(len, places)):
            at_all = self._sent(np.concatenate(places))
            self._extras.index_copy_(0, at_all, self._sent(np.concatenate(frames)))

    def _push_priorities(self) -> None:
        n, leaves, alive, agents = self.priorities.shape[1], [], [], []
        for i, buffer in enumerate(self.buffers):
            changes = buffer.sum_tree.changes or {}
            leaves.append(np.fromiter(changes, np.int64))
            alive.append(np.fromiter(changes.values(), np.float64) > 0)
            agents.append(np.full(len(changes), i))
            changes.clear()
        if sum(map(len, leaves)):
            which = np.concatenate(agents)
            at, owner = self._sent(np.concatenate(leaves) + which * n), self._sent(which)
            values = self._sent(np.concatenate(alive)) * self.largest[owner]
            self.priorities.view(-1).index_copy_(0, at, values)

    def pull(self) -> None:
        """Bring the priorities back to the buffers; waits for the device."""
        self.push()
        priorities, largest = self.priorities.cpu().numpy(), self.largest.tolist()
        for buffer, values, most in zip(self.buffers, priorities, largest, strict=True):
            tree = buffer.sum_tree
            tree.changes = None
            tree.set(np.arange(tree.n_leaves), values)
            tree.changes = {}
            buffer.max_priority = most

    def close(self) -> None:
        """Give the buffers back; this copy is not to be used any more."""
        for buffer in self.buffers:
            buffer.sum_tree.changes = None

    # ----------------------------------------------------------------- sampling

    def sample(self, batch_size: int) -> PrioritizedSamples:
        """Draw ``batch_size`` entries of every agent; something has to be ripe in each buffer."""
        sums = self.priorities.cumsum(1)
        total = sums[:, -1:]
        segment = th.arange(batch_size, device=self.device)
        mass = (segment + self._draw()) * (total / batch_size)
        leaves = th.searchsorted(sums, mass, right=True).clamp_(max=sums.shape[1] - 1)
        found = self.priorities.gather(1, leaves)
        # As DeviceReplay, for sums that are rounded.
        leaves = th.where(found > 0, leaves, self.priorities.argmax(1, keepdim=True))
        probabilities = self.priorities.gather(1, leaves) / total
        agents = self._agents[:, None].expand_as(leaves).flatten()
        batch = self._batch(leaves.flatten(), probabilities.flatten(), agents)
        return batch._replace(probabilities=probabilities, indices=leaves)

    def update_priorities(self, indices: th.Tensor, losses: th.Tensor) -> None:
        """Set ``(loss + 1e-10) ** omega``; indices and losses are ``[S, B]``."""
        priorities = (losses.double() + 1e-10) ** self.buffer.exponent
        self.priorities.scatter_(1, indices, priorities)
        th.maximum(self.largest, priorities.amax(1), out=self.largest)
