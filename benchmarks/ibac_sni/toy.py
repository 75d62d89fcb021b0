r"""The supervised experiment of the IBAC-SNI paper: four regularisers, few data, many backgrounds.

    python benchmarks/ibac_sni/toy.py [--seeds 0 1 2 3 4] [--samples 20000] [--jobs 2]

Appends one line per run to toy.jsonl in the folder of results, skips what is there already, and
writes toy.md (table) and toy.png (figure) from all lines with the same samples and rate. The
authors' sizes, about a day of one core:

    python benchmarks/ibac_sni/toy.py --seeds 0 1 2 3 4 5 6 7 8 9 --samples 819200 --rate 1e-4 \
        --points 64 128 256 512 1024 2048 --functions 2 4 8 16 32 64 --functions-at 2048
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import matplotlib as mpl
import numpy as np
import torch as th

from rlzoo.agents.ibac_sni.toy import Method, train_toy
from rlzoo.runs.provenance import commit

mpl.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).parents[1] / "results" / "ibac_sni"
METHODS: tuple[Method, ...] = get_args(Method)
MANY = 64
Setting = tuple[int, int]  # training signals, backgrounds per class


def run(task: Mapping[str, Any]) -> dict[str, Any]:
    """Train one network, in a worker."""
    th.set_num_threads(1)
    started = time.process_time()
    scores = train_toy(
        task["method"], task["seed"], task["n_train"], task["n_functions"],
        task["samples"], task["learning_rate"],
    )  # fmt: skip
    return {**task, **asdict(scores), "cpu_seconds": round(time.process_time() - started, 2)}


def tasks(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return all runs, the seeds outermost: a sweep that is stopped has all settings."""
    return [
        {
            "method": method, "seed": seed, "n_train": n_train, "n_functions": n_functions,
            "samples": args.samples, "learning_rate": args.rate,
        }
        for seed in args.seeds
        for n_train, n_functions in settings(args)
        for method in METHODS
    ]  # fmt: skip


def settings(args: argparse.Namespace) -> list[Setting]:
    """Return the settings of both sweeps, each once."""
    by_points = [(n, MANY) for n in args.points]
    by_functions = [(args.functions_at, n) for n in args.functions]
    return list(dict.fromkeys(by_points + by_functions))


def read(path: Path) -> list[dict[str, Any]]:
    """Return the runs of earlier calls."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def name(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what no two runs share."""
    keys = ("method", "seed", "n_train", "n_functions", "samples", "learning_rate")
    return tuple(record[key] for key in keys)


def values(records: Iterable[Mapping[str, Any]], setting: Setting, method: str) -> dict[int, float]:
    """Return the test cross-entropy by seed."""
    return {
        record["seed"]: record["test"]
        for record in records
        if (record["n_train"], record["n_functions"]) == setting and record["method"] == method
    }


def table(records: Sequence[Mapping[str, Any]], every: Sequence[Setting]) -> list[str]:
    """Return the rows: mean and standard error, and in how many seeds VIB beats each other one."""
    lines = [
        "| signals | backgrounds per class | " + " | ".join(METHODS) + " | VIB below: none, "
        "weight decay, dropout | n |",
        "|---" * (len(METHODS) + 4) + "|",
    ]
    for setting in every:
        cells, by_method = [], {m: values(records, setting, m) for m in METHODS}
        for method in METHODS:
            found = np.array(list(by_method[method].values()))
            error = found.std(ddof=1) / len(found) ** 0.5 if len(found) > 1 else float("nan")
            cells.append(f"{found.mean():.2f} ± {error:.2f}" if len(found) else "not run")
        vib = by_method["vib"]
        wins = []
        for method in METHODS[:-1]:
            both = vib.keys() & by_method[method].keys()
            wins.append(f"{sum(vib[s] < by_method[method][s] for s in both)}/{len(both)}")
        columns = [*map(str, setting), *cells, ", ".join(wins), str(len(vib))]
        lines.append(f"| {' | '.join(columns)} |")
    return lines


def write(args: argparse.Namespace, records: Sequence[Mapping[str, Any]]) -> None:
    """Write table and figure."""
    every = settings(args)
    commits = sorted({str(record["commit"]) for record in records})
    text = [
        "# Supervised toy experiment",
        "",
        "Cross-entropy in nats per test signal, noise suspended; mean ± standard error over seeds.",
        f"{args.samples:,} samples seen, learning rate {args.rate:g}, seeds "
        f"{' '.join(map(str, args.seeds))}. beta 1e-3 (nats), weight decay 1e-3, dropout 0.5.",
        "n: seeds that were run; a row with fewer is not complete.",
        "",
        *table(records, every),
        "",
        f"Command: `{args.command}`. Commit {', '.join(commits)}; torch {th.__version__}, "
        f"{platform.machine()} CPU, one thread per run; "
        f"{sum(record['cpu_seconds'] for record in records):,.0f} s of CPU.",
        "Raw numbers: `toy.jsonl`.",
    ]
    (RESULTS / "toy.md").write_text("\n".join(text) + "\n")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    sweeps = (
        (axes[0], [(n, MANY) for n in args.points], 0, f"training signals ({MANY} backgrounds)"),
        (axes[1], [(args.functions_at, n) for n in args.functions], 1,
         f"backgrounds per class ({args.functions_at} signals)"),
    )  # fmt: skip
    for axis, line, place, label in sweeps:
        for method in METHODS:
            found = [np.array(list(values(records, s, method).values())) for s in line]
            axis.errorbar(
                [s[place] for s in line],
                [f.mean() if len(f) else np.nan for f in found],
                [f.std(ddof=1) / len(f) ** 0.5 if len(f) > 1 else 0 for f in found],
                label=method.replace("_", " "), marker="o", capsize=2,
            )  # fmt: skip
        axis.set_xscale("log", base=2)
        axis.set_xlabel(label)
    axes[0].set_ylabel("test cross-entropy (nats)")
    axes[0].legend()
    figure.savefig(RESULTS / "toy.png", dpi=110)


def main() -> None:
    """Run what is missing, and write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--points", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--functions", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--functions-at", type=int, default=1024)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="only the table and the figure")
    args = parser.parse_args()
    given = [word for word in sys.argv[1:] if word != "--report"]
    args.command = shlex.join(["python", "benchmarks/ibac_sni/toy.py", *given])
    RESULTS.mkdir(parents=True, exist_ok=True)
    path, wanted = RESULTS / "toy.jsonl", tasks(args)
    known = {name(record) for record in read(path)}
    missing = [task for task in wanted if name(task) not in known and not args.report]
    facts = {"commit": commit(), "torch": th.__version__}
    with ProcessPoolExecutor(args.jobs) as pool, path.open("a") as file:
        futures = [pool.submit(run, task) for task in missing]
        for done, future in enumerate(as_completed(futures), start=1):
            file.write(json.dumps({**future.result(), **facts}) + "\n")
            file.flush()
            print(f"{done}/{len(missing)}", end="\r", flush=True)
    names = {name(task) for task in wanted}
    write(args, [record for record in read(path) if name(record) in names])
    print((RESULTS / "toy.md").read_text())


if __name__ == "__main__":
    main()
