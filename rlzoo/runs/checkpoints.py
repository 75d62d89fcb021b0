"""The checkpoints of a run: when, what, and what happens when the disk is full."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer

from rlzoo.core import checkpoint
from rlzoo.core.checkpoint import Checkpoint, Link, NotPublishedError
from rlzoo.core.offline import OfflineAlgorithm
from rlzoo.core.replay_files import ReplayFiles, check_supported
from rlzoo.errors import FailedError
from rlzoo.runs.barrier import after_failure, cut_episodes, put_barrier, seeds_at, training_env
from rlzoo.runs.directory import RunDirectory
from rlzoo.runs.outputs import flush
from rlzoo.runs.progress import Progress

MAX_FAILURES = 3


def stored_buffer(model: BaseAlgorithm) -> ReplayBuffer | None:
    """Return the replay buffer that checkpoints hold; data sets are kept elsewhere."""
    buffer = getattr(model, "replay_buffer", None)
    if isinstance(model, OfflineAlgorithm) or not isinstance(buffer, ReplayBuffer):
        return None
    return buffer


class Checkpoints:
    """Writes checkpoints every ``freq`` steps, and whenever it is asked to.

    Args:
        run: Run folder.
        model: The agent, whose replay buffer must be one that can be stored.
        freq: Steps between two periodic checkpoints.
        seed: Seed of the run.
        meta: Facts about the run for the manifest of every checkpoint.
        progress: Where a failed checkpoint is reported.
        keep_last: Number of checkpoints to keep.

    Raises:
        RefusedError: If the replay buffer cannot be stored.
    """

    def __init__(
        self,
        run: RunDirectory,
        model: BaseAlgorithm,
        freq: int,
        seed: int,
        meta: Mapping[str, Any],
        progress: Progress,
        keep_last: int = 3,
    ) -> None:
        self.run, self.freq, self.seed, self.meta = run, freq, seed, dict(meta)
        self.progress, self.keep_last = progress, keep_last
        self.last_periodic = 0
        self.newest = (-1, -1)
        """Step of the newest checkpoint, and the number of evaluations in it."""
        self.spent = 0.0
        """Seconds that writing has taken."""
        self._files, self._failures = ReplayFiles(), 0
        self._since, self._before = time.monotonic(), 0.0
        if (buffer := stored_buffer(model)) is not None:
            check_supported(buffer)

    @property
    def seconds(self) -> float:
        """Wall seconds of the run, those before an interruption included."""
        return self._before + time.monotonic() - self._since

    def adopt(self, found: Checkpoint, model: BaseAlgorithm) -> None:
        """Go on after a checkpoint: fill the replay buffer and take over counters."""
        progress = found.parts["progress"]
        self.last_periodic, self._before = progress["last_checkpoint"], progress["seconds"]
        self._since = time.monotonic()
        self.newest = (found.step, len(progress["curve"]))
        if (buffer := stored_buffer(model)) is not None:
            self._files.restore(buffer, found)

    def is_due(self, step: int) -> bool:
        """Whether a multiple of ``freq`` was passed since the last periodic checkpoint."""
        return step // self.freq > self.last_periodic // self.freq

    def put_barrier(self, model: BaseAlgorithm) -> None:
        """Begin new episodes with seeds that follow from seed and step; see ``runs.barrier``."""
        self.last_periodic = model.num_timesteps
        if not isinstance(model, OfflineAlgorithm) and training_env(model) is not None:
            put_barrier(model, seeds_at(self.seed, model.num_timesteps, model.n_envs))

    def publish(self, model: BaseAlgorithm, parts: Mapping[str, Any]) -> None:
        """Write a checkpoint now; a full disk is reported and tried again at the next one.

        Args:
            model: The agent.
            parts: See :meth:`rlzoo.runs.callbacks.RunCallback.state`.

        Raises:
            FailedError: If it failed several times in a row.
            NonFiniteError: If a weight is not finite; earlier checkpoints are untouched.
        """
        started, step = time.monotonic(), parts["progress"]["num_timesteps"]
        flush(model.logger)
        try:
            self._publish(model, step, dict(parts))
        except NotPublishedError as error:
            self._failures += 1
            if self._failures >= MAX_FAILURES:
                error.given = f"{self._failures} checkpoints in a row failed. {error.given}"
                raise FailedError(error.given, error.allowed, error.todo) from error
            self.progress.message(f"Checkpoint {step} was not written: {error.given}")
            return
        self.newest, self._failures = (step, len(parts["progress"]["curve"])), 0
        self.spent += time.monotonic() - started

    def _publish(self, model: BaseAlgorithm, step: int, parts: dict[str, Any]) -> None:
        buffer, links = stored_buffer(model), list[Link]()
        if buffer is not None:
            replay, links = self._files.parts(buffer, step // model.n_envs)
            parts.update(replay)
        folder = checkpoint.publish(
            self.run.checkpoints, step, parts, self.meta, keep_last=self.keep_last, links=links
        )
        if buffer is not None:
            self._files.committed(folder)

    def publish_after_failure(self, model: BaseAlgorithm, parts: Mapping[str, Any]) -> None:
        """Write what there is when an environment failed; whoever continues begins new episodes."""
        attributes = {k: v for k, v in parts["attributes"].items() if not k.startswith("_last_")}
        # The next row of the buffer will be of another episode.
        cut_episodes(stored_buffer(model))
        environments = after_failure(model, self.seed)
        self.publish(model, {**parts, "attributes": attributes, "environments": environments})
