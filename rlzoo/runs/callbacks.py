"""What happens beside training: evaluation, checkpoints, signals, and the progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv

from rlzoo.core.offline import OfflineAlgorithm
from rlzoo.core.safe_zip import save_model
from rlzoo.core.training_state import capture, restore_volatile
from rlzoo.runs.barrier import env_state
from rlzoo.runs.checkpoints import Checkpoints
from rlzoo.runs.directory import RunDirectory
from rlzoo.runs.evaluate import Evaluation, evaluate
from rlzoo.runs.outputs import RunLogger
from rlzoo.runs.progress import Progress
from rlzoo.runs.signals import StopNowError, StopSignals
from rlzoo.runs.splits import Splits, scalars_of

FINAL = "final"
"""Name of the evaluation of the final policy."""

OnEvaluation = Callable[[int, float], bool]
"""Gets step and mean return of every evaluation of a training; False stops it after a checkpoint,
as a signal does, with ``StoppedError(0)``. The evaluation of the final policy is not among them."""


class Evaluator:
    """Evaluates every ``eval_freq`` steps, keeps the curve and the best model.

    Every evaluation has initial states of its own that depend only on seed and step, so that
    evaluating more often does not change a training.

    Args:
        run: Run folder; ``best_model.zip`` goes there.
        env: Evaluation environments.
        env_id: Their id.
        eval_freq: Steps between two evaluations.
        episodes: Episodes per evaluation.
        seed: Seed of the run.
        progress: Where the last return is shown.
        stop: A signal breaks an evaluation off; it is repeated when the run goes on.
        on_evaluation: Told about every point of the curve; may stop the training.
        epsilon: Share of random actions in evaluations.
        deterministic: Take the likeliest actions.
        splits: What else is evaluated every time.
    """

    def __init__(
        self, run: RunDirectory, env: VecEnv, env_id: str, eval_freq: int, episodes: int, seed: int,
        progress: Progress, stop: StopSignals, on_evaluation: OnEvaluation | None = None,
        epsilon: float = 0.0, deterministic: bool = True, splits: Splits | None = None,
    ) -> None:  # fmt: skip
        self.run, self.env, self.env_id, self.eval_freq = run, env, env_id, eval_freq
        self.episodes, self.seed, self.progress, self.stop = episodes, seed, progress, stop
        self.on_evaluation, self.epsilon = on_evaluation, epsilon
        self.deterministic, self.splits = deterministic, splits
        self.curve: list[tuple[int, Evaluation]] = []
        self.seconds = 0.0

    def is_due(self, step: int) -> bool:
        """Whether a multiple of ``eval_freq`` was passed since the last evaluation."""
        last = self.curve[-1][0] if self.curve else 0
        return step // self.eval_freq > last // self.eval_freq

    def evaluate(
        self, model: PolicyPredictor, name: str | int, episodes: int | None = None
    ) -> Evaluation:
        """Run the episodes, of splits as well, and count the time that they take.

        Args:
            model: The agent.
            name: Name of the evaluation: its step, or :data:`FINAL` when the training is over.
            episodes: Another number of episodes.

        Raises:
            StopNowError: If a signal asked for an end.
        """
        started, episodes = time.monotonic(), episodes or self.episodes
        with self.stop.at_once():
            found = evaluate(
                model, self.env, self.env_id, episodes, self.seed, name, self.deterministic,
                self.epsilon,
            )  # fmt: skip
            if self.splits is not None:
                others = self.splits.evaluate(model, self.seed, name, episodes, name == FINAL)
                found = replace(found, splits=others)
        self.seconds += time.monotonic() - started
        return found

    def add_point(self, model: BaseAlgorithm) -> None:
        """Evaluate now, log ``eval/*``, and keep the model if it is the best so far.

        Raises:
            StopNowError: If a signal, or whoever is told about it, asked for an end.
        """
        step, best = model.num_timesteps, self.best
        result = self.evaluate(model, step)
        self.curve.append((step, result))
        logger = model.logger
        for name, value in scalars_of(result).items():
            logger.record(name, value)
        logger.record("time/total_timesteps", step, exclude="tensorboard")
        logger.dump(step)
        self.progress.update(step, f"return {result.return_mean:.0f}")
        if best is None or result.return_mean > best[1].return_mean:
            self._keep(model)
        if self.on_evaluation is not None and not self.on_evaluation(step, result.return_mean):
            raise StopNowError

    def _keep(self, model: BaseAlgorithm) -> None:
        try:
            save_model(model, self.run.best_model)
        except OSError as error:  # the curve says what it was; training goes on
            self.progress.message(f"{self.run.best_model.name} was not written: {error}.")

    @property
    def best(self) -> tuple[int, Evaluation] | None:
        """The step and evaluation with the highest mean return; NaN never counts."""
        finite = [point for point in self.curve if point[1].return_mean == point[1].return_mean]
        return max(finite, key=lambda point: point[1].return_mean, default=None)


class RunCallback(BaseCallback):
    """Evaluates, checkpoints and stops where a run can be continued exactly (a *boundary*).

    That is after every update of an agent that learns from data, and at the start of a rollout of
    any other: in between SB3 holds a rollout or a transition that no file could bring back.

    Args:
        evaluator: When and how to evaluate.
        checkpoints: When and how to write checkpoints.
        stop: Signals that ask for an end.
        parts: Of the checkpoint from which the run goes on; None for a new run.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        checkpoints: Checkpoints,
        stop: StopSignals,
        parts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.evaluator, self.checkpoints, self.stop = evaluator, checkpoints, stop
        self._parts = parts
        # An on-policy rollout may take minutes. What it began with is kept, so that it can be
        # dropped; the weights do not change meanwhile.
        self._rollout_start: dict[str, Any] | None = None
        self._in_rollout = False

    def _on_training_start(self) -> None:
        if self._parts is not None:
            # Frames per second and elapsed time count from the start of the run.
            model = self.model
            model.start_time -= int(self._parts["progress"]["seconds"] * 1e9)
            model._num_timesteps_at_start = 0
            if isinstance(model, OnPolicyAlgorithm) and isinstance(model.logger, RunLogger):
                iterations = self.num_timesteps // (model.n_steps * model.n_envs)
                model.logger.iterations_before = iterations

    def _on_rollout_start(self) -> None:
        self._in_rollout = True
        first, self._parts = self._parts, None
        if first is not None:
            restore_volatile(self.model, first)
        if first is not None or not self._learns_from_data:
            self._boundary()
        if isinstance(self.model, OnPolicyAlgorithm):
            self._rollout_start = self.state()

    def _on_step(self) -> bool:
        if self._learns_from_data:
            self._boundary()
        elif self.stop.requested is not None and self._rollout_start is not None:
            self.checkpoints.publish(self.model, self._rollout_start)
            raise StopNowError
        return True

    def _on_rollout_end(self) -> None:
        self._rollout_start = None
        self._in_rollout = False

    def _on_training_end(self) -> None:
        self._boundary()
        curve = self.evaluator.curve
        if not curve or curve[-1][0] != self.num_timesteps:
            self._evaluate()
        if self.checkpoints.newest != (self.num_timesteps, len(curve)):
            self._publish()

    @property
    def _learns_from_data(self) -> bool:
        return isinstance(self.model, OfflineAlgorithm)

    def _boundary(self) -> None:
        step = self.model.num_timesteps
        if self.evaluator.is_due(step):
            self._evaluate()
        if self.stop.requested is not None:
            self._publish_and_stop()
        if self.checkpoints.is_due(step):
            self.checkpoints.put_barrier(self.model)
            self._publish()

    def _evaluate(self) -> None:
        try:
            self.evaluator.add_point(self.model)
        except StopNowError:
            self._publish_and_stop()

    def _publish_and_stop(self) -> None:
        self._publish()
        raise StopNowError

    def _publish(self) -> None:
        self.checkpoints.publish(self.model, self.state())

    def state(self) -> dict[str, Any]:
        """Return the parts of a checkpoint, without replay buffer."""
        parts = capture(self.model, in_rollout=self._in_rollout)
        environments = {} if self._learns_from_data else env_state(self.model)
        return {**parts, "progress": self._progress(), "environments": environments}

    def state_to_keep(self) -> dict[str, Any]:
        """Return :meth:`state`, or what the unfinished rollout began with."""
        return self._rollout_start or self.state()

    def _progress(self) -> dict[str, Any]:
        """Return the counters of the run itself."""
        return {
            "num_timesteps": self.model.num_timesteps,
            "curve": [[step, point.as_dict()] for step, point in self.evaluator.curve],
            "evaluation_seconds": self.evaluator.seconds,
            "seconds": self.checkpoints.seconds,
            "last_checkpoint": self.checkpoints.last_periodic,
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
            if self.num_timesteps >= self.total:
                return True  # the last rollout takes more steps than were wanted
            rate = (self.num_timesteps - self._since[1]) / (now - self._since[0])
            seconds = (self.total - self.num_timesteps) / rate
            left = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
            self.progress.message(
                f"{rate:,.0f} {self.unit} per second: about {left} to go, evaluations not counted."
            )
        return True
