r"""Turn a trained SB3 agent into a behaviour that ships with rlzoo (see ``rlzoo.runs.behaviours``).

    python benchmarks/export_behaviour.py MODEL.zip --env Hopper-v4 --level medium --steps 60000 \
        --command "rlzoo train sac --env Hopper-v4 …" --commit 0123abc

Only for models that you made yourself: stock SB3 files are unpickled.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rlzoo.runs.behaviours import ship_behaviour


def main() -> None:
    """Parse the options, write weights and card, print the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--agent", default="sac")
    parser.add_argument("--env", required=True)
    parser.add_argument("--level", required=True, choices=["medium", "expert"])
    parser.add_argument("--steps", required=True, type=int)
    parser.add_argument("--command", required=True)
    parser.add_argument("--commit", required=True)
    args = parser.parse_args()
    card = ship_behaviour(
        args.model, args.agent, args.env, args.level, args.steps, args.command, args.commit
    )
    for name, value in card.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
