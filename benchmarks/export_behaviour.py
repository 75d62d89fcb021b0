r"""Turn a trained SB3 agent into a behaviour that ships with rlzoo: weights and a card.

    python benchmarks/export_behaviour.py MODEL.zip --env Hopper-v4 --level medium --steps 60000 \\
        --command "rlzoo train sac --env Hopper-v4 …" --commit 0123abc

Evaluates 100 episodes of the sampled and of the deterministic policy, with the seeds of
``rlzoo eval --seed 0``, and writes weights and card into ``rlzoo/data/behaviours/``. Only for
models that you made yourself: stock SB3 files are unpickled.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import rlzoo
from rlzoo.agents.registry import get_agent
from rlzoo.core.device import configure_cpu
from rlzoo.data.behaviours import load_behaviour
from rlzoo.data.behaviours.extract import export
from rlzoo.data.recipes import ENV_NAMES
from rlzoo.runs.evaluate import evaluate, make_eval_env

EPISODES = 100


def main() -> None:
    """Parse, evaluate, write, and load what was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--agent", default="sac")
    parser.add_argument("--env", required=True)
    parser.add_argument("--level", required=True, choices=["medium", "expert"])
    parser.add_argument("--steps", required=True, type=int)
    parser.add_argument("--command", required=True)
    parser.add_argument("--commit", required=True)
    args = parser.parse_args()
    configure_cpu(1)  # many small batches: more threads only wait for each other

    model = get_agent(args.agent).load_class().load(args.model, device="cpu")
    env = make_eval_env(args.env, EPISODES)
    returns = {
        deterministic: evaluate(
            model, env, args.env, EPISODES, seed=0, name="card", deterministic=deterministic
        )
        for deterministic in (False, True)
    }
    env.close()
    card = {
        "env_id": args.env,
        "level": args.level,
        "steps": args.steps,
        "command": args.command,
        "commit": args.commit,
        "episodes": EPISODES,
        "return_mean": returns[False].return_mean,
        "return_std": returns[False].return_std,
        "deterministic_return_mean": returns[True].return_mean,
        "deterministic_return_std": returns[True].return_std,
        "normalized": returns[False].normalized,
    }
    folder = Path(rlzoo.__file__).parent / "data" / "behaviours"
    export(model, folder / f"{ENV_NAMES[args.env]}-{args.level}", card)
    load_behaviour(args.env, args.level)
    for name, value in card.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
