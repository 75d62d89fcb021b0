"""Success of trained policies on levels with one, two and three rooms, as the paper reports it.

    python benchmarks/ibac_sni/multiroom.py RUN... [--records FILE] [--size small]

Every RUN is the folder of a finished run, trained on N3r, say. 100 fixed levels of each of N1, N2
and N3 (seeds 0 to 99), actions sampled, success is a reward above 0. With ``--records`` three lines
per run, one for each task, are added to a file that ``rlzoo leaderboard show`` reads; their score
is ``metrics.success_rate``. Results are bi-modal: look at every seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path

from rlzoo.envs.multiroom import env_id
from rlzoo.report.records import append, from_result
from rlzoo.runs.levels import MULTIROOM, multiroom_success
from rlzoo.runs.policies import load_policy


def main() -> None:
    """Play, print a row per run and one per agent, and add records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--levels", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first level")
    parser.add_argument("--greedy", action="store_true", help="do not sample actions")
    parser.add_argument("--grid-size", type=int, default=11, help="9 for policies of N2r")
    parser.add_argument("--records", type=Path)
    parser.add_argument("--suite", default="multiroom")
    parser.add_argument("--size", default="small")
    args = parser.parse_args()
    names, by_agent = [env_id(task) for task in MULTIROOM], defaultdict(list)
    print("| agent | trained on | seed | steps | " + " | ".join(MULTIROOM) + " |")
    print("|---" * (4 + len(names)) + "|")
    for run in args.runs:
        result = json.loads((run / "result.json").read_text(encoding="utf-8"))
        model = load_policy(str(run), device="cpu")
        found = multiroom_success(
            model, levels=args.levels, seed=args.seed, deterministic=args.greedy,
            grid_size=args.grid_size,
        )  # fmt: skip
        agent = f"{result['agent']} {result['preset']}"
        by_agent[agent].append(found)
        cells = " | ".join(f"{found[name]:.2f}" for name in names)
        facts = f"{result['env']} | {result['seed']} | {result['total_timesteps']:,}"
        print(f"| {agent} | {facts} | {cells} |")
        for name in names if args.records else ():
            record = from_result(
                {**result, "env": name}, args.suite, args.size, run_dir=str(run),
                metrics={"success_rate": found[name]}, final=None, best=None, curve=(),
            )  # fmt: skip
            append(args.records, record)
    for agent, found_ones in by_agent.items():
        cells = " | ".join(f"{statistics.median(f[n] for f in found_ones):.2f}" for n in names)
        print(f"| {agent} | median of {len(found_ones)} seeds | | | {cells} |")


if __name__ == "__main__":
    main()
