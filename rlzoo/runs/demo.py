"""``rlzoo demo``: data, training and evaluation in one go, at a size that a laptop can do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlzoo.data.recipes import default_for, get_recipe
from rlzoo.data.scores import normalized_score
from rlzoo.runs.evaluate import Evaluation
from rlzoo.runs.policies import evaluate_policy_spec
from rlzoo.runs.progress import Progress
from rlzoo.runs.train import TrainRequest, TrainResult, train

AGENT, ENV_ID, PRESET = "bear", "Hopper-v4", "cpu"
SIZE = 150_000


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration found.

    Args:
        training: The training, with the statistics of its data.
        data_normalized: Normalised mean return of the data.
        random: Evaluation of uniformly random actions.
    """

    training: TrainResult
    data_normalized: float | None
    random: Evaluation


def run_demo(
    steps: int | None = None,
    size: int = SIZE,
    seed: int = 0,
    run_dir: Path | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> DemoResult:
    """Collect medium Hopper data unless they are there, train BEAR on them, evaluate.

    Args:
        steps: Updates; None takes those of the preset.
        size: Number of transitions of the data set.
        seed: Of training and evaluation; the data set has its own.
        run_dir: Run folder.
        progress: Where everything reports.
        command: The command line, for the record.
    """
    dataset = get_recipe(default_for(ENV_ID)).with_size(size).id
    training = train(
        TrainRequest(
            agent=AGENT, env_id=ENV_ID, preset=PRESET, dataset=dataset, steps=steps, seed=seed,
            run_dir=run_dir, command=command,
        ),
        progress,
    )  # fmt: skip
    episodes = int(training.record["final"]["episodes"])
    _, random = evaluate_policy_spec("random", ENV_ID, episodes, seed)
    data = training.data_returns or {}
    return DemoResult(training, normalized_score(ENV_ID, data["mean"]), random)
