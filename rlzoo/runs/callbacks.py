"""What happens beside training: evaluation, checkpoints, and the progress bar."""

from __future__ import annotations

import time
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from rlzoo.core import checkpoint
from rlzoo.core.checkpoint import NotPublishedError
from rlzoo.core.seeding import get_states
from rlzoo.runs.directory import RunDirectory
from rlzoo.runs.evaluate import Evaluation, evaluate
from rlzoo.runs.progress import Progress


class EvaluationCallback(BaseCallback):
    """Evaluates every ``eval_freq`` steps and keeps the curve; writes ``eval/*`` tags.

    Unlike SB3's ``EvalCallback`` it counts steps, not calls, whatever the number of environments,
    and every evaluation has initial states of its own that depend only on seed and step.

    Args:
        env: Evaluation environments.
        env_id: Their id.
        eval_freq: Steps between two evaluations.
        episodes: Episodes per evaluation.
        seed: Seed of the run.
        progress: Where the last return is shown.
    """

    def __init__(
        self, env: VecEnv, env_id: str, eval_freq: int, episodes: int, seed: int, progress: Progress
    ) -> None:
        super().__init__()
        self.env, self.env_id, self.eval_freq = env, env_id, eval_freq
        self.episodes, self.seed, self.progress = episodes, seed, progress
        self.curve: list[tuple[int, Evaluation]] = []
        self.seconds = 0.0
        self._next = eval_freq

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._next:
            self._next += self.eval_freq
            self.evaluate()
        return True

    def _on_training_end(self) -> None:
        if not self.curve or self.curve[-1][0] != self.num_timesteps:
            self.evaluate()

    def evaluate(self) -> Evaluation:
        """Evaluate now."""
        started = time.monotonic()
        result = evaluate(
            self.model, self.env, self.env_id, self.episodes, self.seed, self.num_timesteps
        )
        self.seconds += time.monotonic() - started
        self.curve.append((self.num_timesteps, result))
        self.logger.record("eval/mean_reward", result.return_mean)
        self.logger.record("eval/std_reward", result.return_std)
        self.logger.record("eval/mean_ep_length", result.length_mean)
        if result.normalized is not None:
            self.logger.record("eval/normalized", result.normalized)
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)
        self.progress.update(self.num_timesteps, f"return {result.return_mean:.0f}")
        return result

    @property
    def best(self) -> tuple[int, Evaluation] | None:
        """The step and evaluation with the highest mean return; NaN never counts."""
        finite = [point for point in self.curve if point[1].return_mean == point[1].return_mean]
        return max(finite, key=lambda point: point[1].return_mean, default=None)


class CheckpointCallback(BaseCallback):
    """Publishes a checkpoint every ``checkpoint_freq`` steps and at the end.

    Args:
        run: Run folder.
        checkpoint_freq: Steps between two checkpoints.
        evaluation: Its curve goes into the checkpoint.
        progress: Where a failed checkpoint is reported.
        keep_last: Number of checkpoints to keep.
    """

    def __init__(
        self,
        run: RunDirectory,
        checkpoint_freq: int,
        evaluation: EvaluationCallback,
        progress: Progress,
        keep_last: int | None = 3,
    ) -> None:
        super().__init__()
        self.run, self.checkpoint_freq, self.evaluation = run, checkpoint_freq, evaluation
        self.progress, self.keep_last = progress, keep_last
        self._next = checkpoint_freq
        self._last: int | None = None

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._next:
            self._next += self.checkpoint_freq
            self.publish()
        return True

    def _on_training_end(self) -> None:
        if self._last != self.num_timesteps:
            self.publish()

    def publish(self) -> None:
        """Write a checkpoint now; a full disk is reported and does not stop the training."""
        try:
            checkpoint.publish(
                self.run.checkpoints,
                self.num_timesteps,
                state_of(self.model, self.evaluation),
                {"class": f"{type(self.model).__module__}:{type(self.model).__name__}"},
                keep_last=self.keep_last,
            )
            self._last = self.num_timesteps
        except NotPublishedError as error:
            self.progress.message(f"Checkpoint {self.num_timesteps} was not written: {error}")


def state_of(model: BaseAlgorithm, evaluation: EvaluationCallback) -> dict[str, Any]:
    """Return the parts of a checkpoint: parameters and optimisers, generators, counters, curve."""
    return {
        "parameters": model.get_parameters(),
        "generators": get_states(),
        "progress": {
            "num_timesteps": model.num_timesteps,
            "n_updates": getattr(model, "_n_updates", 0),
            "curve": [[step, point.as_dict()] for step, point in evaluation.curve],
        },
    }


class ProgressCallback(BaseCallback):
    """Moves the progress bar, and says once how long the training will take.

    Args:
        progress: The bar.
        total: Number of steps.
        unit: What is counted, for the message.
    """

    def __init__(self, progress: Progress, total: int, unit: str) -> None:
        super().__init__()
        self.progress, self.total, self.unit = progress, total, unit
        self._shown = 0.0
        # Time and step of the first update: what comes before (random actions) is much faster.
        self._since: tuple[float, int] | None = None
        self._told = False

    def _on_step(self) -> bool:
        now = time.monotonic()
        if now - self._shown > 0.5:
            self._shown = now
            self.progress.update(self.num_timesteps)
        if self._since is None and getattr(self.model, "_n_updates", 1) > 0:
            self._since = (now, self.num_timesteps)
        if not self._told and self._since is not None and now - self._since[0] > 5:
            self._told = True
            rate = (self.num_timesteps - self._since[1]) / (now - self._since[0])
            seconds = (self.total - self.num_timesteps) / rate
            left = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
            self.progress.message(
                f"{rate:,.0f} {self.unit} per second: about {left} to go, evaluations not counted."
            )
        return True
