"""One training in a run folder, from its beginning or from a checkpoint, to its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.vec_env import VecEnv

from rlzoo.agents.registry import AgentSpec
from rlzoo.config.resolve import ResolvedConfig, dump
from rlzoo.core import checkpoint
from rlzoo.core.checkpoint import Checkpoint, library_versions
from rlzoo.core.device import make_deterministic
from rlzoo.core.finite import NonFiniteError, check_finite
from rlzoo.core.goal_episodes import GoalEpisodes
from rlzoo.core.safe_zip import save_model
from rlzoo.core.tasks.scores import describe_scale
from rlzoo.core.training_state import restore
from rlzoo.data.recipes import default_for
from rlzoo.data.transitions import Transitions
from rlzoo.envs.car_racing import encoder_digest
from rlzoo.envs.checks import policy_for
from rlzoo.envs.training import EnvFailedError
from rlzoo.errors import RefusedError
from rlzoo.runs import dream, pictures
from rlzoo.runs.barrier import return_to, training_env
from rlzoo.runs.callbacks import FINAL, Evaluator, OnEvaluation, ProgressCallback, RunCallback
from rlzoo.runs.checkpoints import Checkpoints
from rlzoo.runs.datasets import ensure_dataset, ensure_demonstrations
from rlzoo.runs.directory import RunDirectory
from rlzoo.runs.evaluate import Evaluation, RandomShare, make_eval_env
from rlzoo.runs.outputs import add_images, run_logger
from rlzoo.runs.progress import Progress
from rlzoo.runs.provenance import code_digest, commit, machine, plain_settings
from rlzoo.runs.record import record_episodes
from rlzoo.runs.signals import StopNowError, StoppedError, StopSignals
from rlzoo.runs.splits import Splits, metrics_of
from rlzoo.runs.video_checks import check_video


@dataclass
class TrainResult:
    """What training left behind.

    Args:
        run_dir: The run folder.
        record: The contents of ``result.json``.
        model: The trained agent.
        data_returns: ``mean`` and ``std`` of the returns of the data set, None for online agents.
        curve: Step, mean and standard deviation of every evaluation of the training.
    """

    run_dir: Path
    record: dict[str, Any]
    model: BaseAlgorithm
    data_returns: dict[str, float] | None = None
    curve: list[tuple[int, float, float]] = field(default_factory=list)


class Training:
    """A model, its data and environments, and the folder that keeps what they do.

    Args:
        run: Run folder, locked.
        spec: The agent.
        config: Its settings.
        vec: Training environments, a ``TrainingVecEnv``.
        seed: Seed of the run.
        device: Torch device.
        command: The command line, for the record.
        progress: Where messages and the bar go.
        found: Checkpoint to go on from.
        history: What the manifest says about earlier parts of the run.
        on_evaluation: Told about every point of the curve; may stop the training.

    Raises:
        RefusedError: If data, environment and agent do not fit; nothing was written.
    """

    def __init__(
        self,
        run: RunDirectory,
        spec: AgentSpec,
        config: ResolvedConfig,
        vec: VecEnv,
        seed: int,
        device: str,
        command: str,
        progress: Progress,
        found: Checkpoint | None = None,
        history: Mapping[str, Any] | None = None,
        on_evaluation: OnEvaluation | None = None,
    ) -> None:
        self.run, self.spec, self.config, self.vec = run, spec, config, vec
        self.seed, self.command, self.progress = seed, command, progress
        self.found, self.settings = found, config.run_settings()
        self.on_evaluation = on_evaluation
        if self.settings.deterministic:
            make_deterministic()
        if self.settings.video:
            check_video(config.env_id, self.settings.env_kwargs)
        if self.settings.then_dream:
            dream.check_agent(spec)
        if self.settings.pictures:
            pictures.check_agent(spec)
        RandomShare(vec.action_space, self.settings.eval_epsilon)  # refused now, not after hours
        self.splits = Splits(config.env_id, self.settings)
        self.splits.check(vec)
        self.source: tuple[str | None, str | None] = (None, None)
        self.data = self._dataset() if spec.needs_data else None
        self.model = self._make_model(device)
        if self.settings.then_dream:
            dream.check_model(spec, self.model, self.settings.dream_model)
        # Environments are made, so an encoder that they need is there.
        self.encoder = encoder_digest(config.env_id, self.settings.env_kwargs)
        self.meta = self._facts()
        self.checkpoints = Checkpoints(
            run, self.model, self.settings.checkpoint_freq, seed, self.meta, progress,
            self.settings.keep_checkpoints,
        )  # fmt: skip
        self.manifest = {**self._manifest(), **(history or {})}

    def run_to_end(self) -> TrainResult:
        """Train, evaluate the final policy, and write ``model.zip`` and ``result.json``.

        Raises:
            StoppedError: If a signal or ``on_evaluation`` asked for an end.
            FailedError: If training broke off.
        """
        run, found = self.run, self.found
        dreamt: dict[str, Any] | None = None
        # From here on nothing is refused: a folder that holds files is one of a started run.
        run.write_text(run.config, dump(self.config))
        self._say_status("running")
        after = None if found is None else found.step
        self.model.set_logger(run_logger(run.path, self.progress.message, after))
        eval_env = make_eval_env(
            self.config.env_id, max(self.settings.eval_episodes, self._final_episodes),
            self.settings.eval_envs, **self.settings.env_kwargs,
        )  # fmt: skip
        with StopSignals(self.progress.message) as stop:
            evaluator = Evaluator(
                run, eval_env, self.config.env_id, self.settings.eval_freq,
                self.settings.eval_episodes, self.seed, self.progress, stop, self.on_evaluation,
                self.settings.eval_epsilon, self.settings.eval_deterministic, self.splits,
            )  # fmt: skip
            callback = RunCallback(
                evaluator, self.checkpoints, stop, None if found is None else found.parts
            )
            try:
                if found is not None:
                    self._go_on_from(found, evaluator)
                self._learn(callback)
                final = self._evaluate_final(evaluator)
                if self.settings.then_dream:
                    dreamt = dream.train_in_dream(
                        self.spec, self.model, run, self.settings.then_dream,
                        self.settings.dream_model, self.seed, self.progress, stop,
                    )  # fmt: skip
            except StopNowError:
                raise self._stopped(stop.requested or 0) from None
            except Exception as error:
                failure = self._failure(error, callback, stop)
                if failure is error:
                    raise
                raise failure from error
            finally:
                self.progress.stop()
                self.model.logger.close()
                eval_env.close()
                self.splits.close()
        return self._finish(evaluator, final, dreamt)

    @property
    def _final_episodes(self) -> int:
        return self.settings.final_eval_episodes or self.settings.eval_episodes

    def _evaluate_final(self, evaluator: Evaluator) -> Evaluation:
        if self._final_episodes > self.settings.eval_episodes:
            self.progress.message(f"Evaluating the final policy: {self._final_episodes} episodes.")
        return evaluator.evaluate(self.model, FINAL, self._final_episodes)

    # ------------------------------------------------------------------ set-up

    def _dataset(self) -> Transitions:
        source = self.settings.dataset or default_for(self.config.env_id)
        data = ensure_dataset(source, self.progress)
        self.source = data.dataset_id, data.fingerprint
        statistics = data.return_statistics()
        self.progress.message(
            f"Data set {data.dataset_id}: {len(data):,} transitions, {data.n_episodes:,} episodes, "
            f"return {statistics['mean']:.0f} +- {statistics['std']:.0f}."
        )
        return data

    def _demonstrations(self) -> GoalEpisodes:
        shown = ensure_demonstrations(
            self.settings.dataset, self.config.env_id, self.settings.env_kwargs, self.progress
        )
        self.source = shown.metadata["id"], shown.metadata["fingerprint"]
        reached = "" if shown.success is None else f", {shown.success.mean():.0%} at their goals"
        self.progress.message(
            f"Demonstrations {self.source[0]}: {len(shown)} episodes, {shown.n_steps:,} "
            f"{'states' if shown.state_only else 'steps'}{reached}."
        )
        return shown

    def _make_model(self, device: str) -> BaseAlgorithm:
        shape = self.vec.action_space.shape
        arguments = self.config.build(int(np.prod(shape)) if shape else None)
        if self.data is not None:
            arguments["dataset"] = self.data
        cls, policy = self.spec.load_class(), policy_for(self.vec.observation_space)
        if self.spec.demonstrations and cls.uses_demonstrations(arguments):
            arguments["demonstrations"] = self._demonstrations()
        if policy not in cls.policy_aliases:
            raise RefusedError(
                f"{self.spec.name} has no {policy}, which the observations of "
                f"{self.config.env_id} need.",
                f"It has: {', '.join(cls.policy_aliases)}.",
            )
        # The constructor seeds the environments with seed + index; the named streams win, so that
        # training and evaluation never share an initial state.
        seeds = list(self.vec.unwrapped._seeds)
        model: BaseAlgorithm = cls(policy, self.vec, seed=self.seed, device=device, **arguments)
        self.vec.unwrapped._seeds = seeds
        return model

    def _facts(self) -> dict[str, Any]:
        """Return what must be the same for an exact continuation."""
        return {
            "class": f"{type(self.model).__module__}:{type(self.model).__name__}",
            "agent": self.config.agent_name,
            "env": self.config.env_id,
            "seed": self.seed,
            "settings": plain_settings(self.config),
            "dataset_fingerprint": self.source[1],
            "encoder_sha256": self.encoder,
            "code": code_digest(self.spec),
        }

    def _manifest(self) -> dict[str, Any]:
        return {
            "agent": self.config.agent_name,
            "preset": self.config.preset,
            "env": self.config.env_id,
            "seed": self.seed,
            "dataset": self.source[0],
            "dataset_fingerprint": self.source[1],
            "encoder_sha256": self.encoder,
            "device": str(self.model.device),
            "machine": machine(self.model.device),
            "versions": library_versions(),
            "commit": commit(),
            "command": self.command,
        }

    # ---------------------------------------------------------------- training

    def _go_on_from(self, found: Checkpoint, evaluator: Evaluator) -> None:
        restore(self.model, found.parts)
        self.checkpoints.adopt(found, self.model)
        progress = found.parts["progress"]
        evaluator.curve = [(step, Evaluation.from_dict(point)) for step, point in progress["curve"]]
        evaluator.seconds = progress["evaluation_seconds"]
        if training_env(self.model) is None or self.data is not None:
            return
        if not return_to(self.model, found.parts["environments"]):
            self.progress.message(
                f"{self.config.env_id} does not repeat itself from its seeds: the run goes on, "
                "but not exactly as it would have."
            )

    def _learn(self, callback: RunCallback) -> None:
        total, unit = self.settings.steps, unit_of(self.spec)
        bar = ProgressCallback(self.progress, total, unit)
        self.progress.start(f"training {self.spec.name}", total, unit)
        self.model.learn(
            max(total - self.model.num_timesteps, 0),
            callback=CallbackList([callback, bar]),
            reset_num_timesteps=self.found is None,
        )

    def _stopped(self, number: int) -> StoppedError:
        self._say_status("stopped")
        step, _ = self.checkpoints.newest
        return StoppedError(
            number,
            f"Stopped at step {self.model.num_timesteps:,}; the newest checkpoint has {step:,}."
            if step >= 0
            else "Stopped before the first checkpoint.",
            todo=f"Continue with: rlzoo resume {self.run.path}",
        )

    def _failure(self, error: Exception, callback: RunCallback, stop: StopSignals) -> Exception:
        """Keep what can be kept, and return the error to raise."""
        bad = self._non_finite(error)
        if bad is not None:
            aside = checkpoint.save_aside(self.run.path, bad.step, callback.state())
            bad.todo = f"The bad state is in {aside}; earlier checkpoints are untouched."
            self._say_status("failed", str(bad))
            return bad
        if isinstance(error, EnvFailedError):
            self.checkpoints.publish_after_failure(self.model, callback.state_to_keep())
            if stop.requested is not None:  # a scheduler ends the workers as well
                return self._stopped(stop.requested)
            error.todo = f"What was learned is kept; continue with: rlzoo resume {self.run.path}"
        self._say_status("failed", str(error))
        return error

    def _non_finite(self, error: Exception) -> NonFiniteError | None:
        """Return what is behind an error: a network of NaN fails in many ways."""
        if isinstance(error, NonFiniteError):
            return error
        weights = {f"policy/{name}": t for name, t in self.model.policy.state_dict().items()}
        try:
            check_finite(weights, self.model.num_timesteps)
        except NonFiniteError as bad:
            return bad
        return None

    def _say_status(self, status: str, error: str | None = None) -> None:
        facts = {"status": status} if error is None else {"status": status, "error": error}
        self.run.write_json(self.run.manifest, {**self.manifest, **facts})

    def _finish(
        self, evaluator: Evaluator, final: Evaluation, dreamt: dict[str, Any] | None
    ) -> TrainResult:
        model, best, seconds = self.model, evaluator.best, self.checkpoints.seconds
        save_model(model, self.run.model)
        learning = max(seconds - evaluator.seconds, 1e-9)
        record = {
            **self.manifest,
            "total_timesteps": model.num_timesteps,
            "final": final.summary(),
            "best": None if best is None else {**best[1].summary(), "step": best[0]},
            "curve": [[step, point.return_mean] for step, point in evaluator.curve],
            "metrics": {**metrics_of(final), **dream.metrics_of(dreamt)},
            "metric_curves": _metric_curves(evaluator.curve),
            "splits": _splits(final, evaluator.curve),
            "evaluation": self._protocol(),
            "wall_seconds": round(seconds, 3),
            "checkpoint_seconds": round(self.checkpoints.spent, 3),
            "steps_per_second": round(model.num_timesteps / learning, 2),
            **({} if dreamt is None else {"dream": dreamt}),
        }
        self.run.write_json(self.run.result, record)
        self._say_status("finished")
        if self.settings.video:
            record_episodes(  # a warning at most: the training is done
                model, self.config.env_id, [self.run.path / "videos" / "episode_0.mp4"], self.seed,
                deterministic=self.settings.eval_deterministic,
                env_kwargs=self.settings.env_kwargs, epsilon=self.settings.eval_epsilon,
                tolerant=True,
            )  # fmt: skip
        if self.settings.pictures:
            self._draw()
        returns = None if self.data is None else self.data.return_statistics()
        curve = [(step, point.return_mean, point.return_std) for step, point in evaluator.curve]
        return TrainResult(self.run.path, record, model, returns, curve)

    def _draw(self) -> None:
        """Draw what the final policy believes; a warning at most: the training is done."""
        file = self.run.path / "pictures" / f"episode_0{pictures.suffix()}"
        drawn = pictures.draw_episodes(
            self.model, self.spec, self.config.env_id, [file], self.seed,
            deterministic=self.settings.eval_deterministic, env_kwargs=self.settings.env_kwargs,
            epsilon=self.settings.eval_epsilon, tolerant=True,
        )  # fmt: skip
        pages = {f.stem: f for f in (record.filmstrip for record in drawn) if f is not None}
        add_images(self.run.path, pages, self.model.num_timesteps, self.progress.message)

    def _protocol(self) -> dict[str, Any]:
        """Return how the policies were evaluated, for the record."""
        settings = self.settings
        return {
            "policy": "final",
            "episodes": self._final_episodes,
            "episodes_during_training": settings.eval_episodes,
            "deterministic": settings.eval_deterministic,
            "epsilon": settings.eval_epsilon,
            "n_envs": min(max(settings.eval_episodes, self._final_episodes), settings.eval_envs),
            "scale": describe_scale(self.config.env_id),
            "splits": self.splits.describe(),
        }


def _metric_curves(curve: Sequence[tuple[int, Evaluation]]) -> dict[str, list[list[float]]]:
    """Return step and value of every evaluation of the training, by metric."""
    found: dict[str, list[list[float]]] = {}
    for step, point in curve:
        for name, value in metrics_of(point).items():
            found.setdefault(name, []).append([step, value])
    return found


def _splits(final: Evaluation, curve: Sequence[tuple[int, Evaluation]]) -> dict[str, Any]:
    """Return the results of every split and its returns during the training."""
    return {
        name: {
            **found.summary(),
            "curve": [[s, p.splits[name].return_mean] for s, p in curve if name in p.splits],
        }
        for name, found in final.splits.items()
    }


def unit_of(spec: AgentSpec) -> str:
    """Return what ``steps`` counts."""
    return "updates" if spec.needs_data else "environment steps"
