"""From a trained agent to a behaviour that ships with rlzoo: weights and a card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rlzoo
from rlzoo.agents.registry import get_agent
from rlzoo.core.device import configure_cpu
from rlzoo.data.behaviours import load_behaviour
from rlzoo.data.behaviours.extract import export
from rlzoo.data.recipes import ENV_NAMES
from rlzoo.runs.evaluate import evaluate, make_eval_env

EPISODES = 100
FOLDER = Path(rlzoo.__file__).parent / "data" / "behaviours"


def ship_behaviour(
    model_path: Path, agent: str, env_id: str, level: str, steps: int, command: str, commit: str
) -> dict[str, Any]:
    """Evaluate a model, and write ``<env>-<level>.safetensors`` and its card into the package.

    100 episodes of the sampled and of the deterministic policy, from fixed initial states.

    Args:
        model_path: Model of the agent, from SB3's own save: it is unpickled, so use your own only.
        agent: Name of the agent in the registry.
        env_id: Environment id.
        level: ``"medium"`` or ``"expert"``.
        steps: Environment steps that the model was trained for.
        command: Command line that trains it.
        commit: Commit that it was trained with.

    Returns:
        The card as it was given to :func:`rlzoo.data.behaviours.extract.export`.
    """
    configure_cpu(1)  # many small batches: more threads only wait for each other
    model = get_agent(agent).load_class().load(model_path, device="cpu")
    env = make_eval_env(env_id, EPISODES)
    sampled, deterministic = (
        evaluate(model, env, env_id, EPISODES, seed=0, name="card", deterministic=choice)
        for choice in (False, True)
    )
    env.close()
    card = {
        "env_id": env_id,
        "level": level,
        "steps": steps,
        "command": command,
        "commit": commit,
        "episodes": EPISODES,
        "return_mean": sampled.return_mean,
        "return_std": sampled.return_std,
        "deterministic_return_mean": deterministic.return_mean,
        "deterministic_return_std": deterministic.return_std,
        "normalized": sampled.normalized,
    }
    export(model, FOLDER / f"{ENV_NAMES[env_id]}-{level}", card)
    load_behaviour(env_id, level)
    return card
