"""Several finished runs in one figure, one table and one CSV file.

python -m covey.experiment.compare runs/a runs/b --out compare.png [--csv compare.csv] [--labels HyperMARL IPPO]
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from covey.experiment import folder
from covey.experiment.checkpoint import RunError
from covey.experiment.log import Log, duration, number
from covey.experiment.plot import Curve, save_figure
from covey.experiment.program import evaluation_schedule
from covey.experiment.statistics import bootstrap_interval, iqm, probability_of_improvement

FIGURES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Finished:
    """What is compared of a run: its `config.json`, its `summary.json`, and its curve over the seeds that did well."""

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    steps: np.ndarray  # [P] environment steps per seed
    returns: np.ndarray  # [S, P]


def read(path: Path) -> Finished:
    """A finished run's folder. Raises RunError naming the file that is missing."""
    config = folder.read_config(path)
    try:
        summary = json.loads((path / "summary.json").read_text())
        with np.load(path / "metrics.npz") as file:
            returns = file["eval/return"]
    except FileNotFoundError as error:
        missing = f"{error.filename} is missing"
        raise RunError(f"{path} is not finished ({missing}): continue it with --resume {path}") from None
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{path} is damaged ({error}): write its results again with --resume {path}") from None
    schedule = evaluation_schedule(len(returns), summary["num_evaluations"])
    diverged = {int(seed) - summary["first_seed"] for seed in summary["diverged"]}
    healthy = [i for i in range(returns.shape[1]) if i not in diverged]
    if not healthy:
        raise RunError(f"{path} has no curve: all of its {returns.shape[1]} seeds diverged")
    return Finished(path, config, summary, schedule * summary["steps_per_update"], returns[schedule - 1][:, healthy].T)


def labels(runs: Sequence[Finished]) -> list[str]:
    """A short name per run: its program, its preset if they differ, and the settings in which the runs differ.

    A part that is of another type (`sharing`, say) is named by its type alone. The folder's name settles ties.
    """
    settings = [dict(folder.flatten(run.config["args"])) for run in runs]
    names = list(dict.fromkeys(name for s in settings for name in s if not name.startswith("run.")))
    differing = [name for name in names if len({str(s.get(name)) for s in settings}) > 1]
    retyped = [name.removesuffix("type") for name in differing if name.endswith(".type")]
    differing = [n for n in differing if n.endswith(".type") or not any(n.startswith(part) for part in retyped)]
    same_preset = len({run.config["preset"] for run in runs}) == 1
    texts = []
    for run, own in zip(runs, settings, strict=True):
        parts = [run.config["program"] if same_preset else f"{run.config['program']} {run.config['preset']}"]
        for name in differing:
            if name in own and not (name.startswith("env.") and not same_preset):  # the preset says which environment
                parts.append(str(own[name]) if name.endswith(".type") else f"{name.split('.')[-1]}={own[name]}")
        texts.append(", ".join(parts))
    return [t if texts.count(t) == 1 else f"{t} ({run.path.name})" for t, run in zip(texts, runs, strict=True)]


def compare(paths: Sequence[Path], out: Path, csv_path: Path | None = None, names: Sequence[str] | None = None) -> None:
    """Draw the runs' curves to `out`, print their final returns, and write the curves to `csv_path` if given.

    Raises RunError for a run that is not finished, a file that cannot be written, or `names` that are not one per run.
    """
    for path in filter(None, (out, csv_path)):
        if not path.parent.is_dir() or path.is_dir():
            raise RunError(f"{path} cannot be written; allowed: a file in a folder that exists")
    if out.suffix.lower() not in FIGURES:
        raise RunError(f"--out is {out}; allowed: a name that ends in {', '.join(FIGURES)}")
    runs = [read(path) for path in paths]
    if names and len(names) != len(runs):
        raise RunError(f"--labels has {len(names)} names; allowed: one for each of the {len(runs)} runs")
    names = list(names or labels(runs))
    presets = {run.config["preset"] for run in runs}
    title = presets.pop() if len(presets) == 1 else f"{len(runs)} runs"
    curves = [Curve(name, run.steps, run.returns) for name, run in zip(names, runs, strict=True)]
    save_figure(out, curves, title=title or f"{len(runs)} runs")
    if csv_path:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(_rows(curves))
        folder.write(csv_path, text.getvalue())

    log = Log()
    log.table(
        ["run", "eval/return, IQM", "95 % interval", "seeds", "P(better than first)", "steps/s", "compile"],
        [_table_row(name, run, runs[0]) for name, run in zip(names, runs, strict=True)],
    )
    for path in filter(None, (out, csv_path)):
        log.line(str(path))


def _table_row(name: str, run: Finished, first: Finished) -> list[str]:
    final = run.returns[:, -1]
    low, high = bootstrap_interval(final)
    interval = f"{low:.4g} to {high:.4g}" if len(final) > 1 else "-"
    better = "-" if run is first else f"{probability_of_improvement(final, first.returns[:, -1]):.2f}"
    seconds = run.summary["compile_seconds"]
    compiled = "-" if seconds is None else duration(seconds)
    speed = number(run.summary["steps_per_second"])
    return [name, f"{iqm(final):.4g}", interval, str(len(final)), better, speed, compiled]


def _rows(curves: Sequence[Curve]) -> list[list]:
    """One row per run and evaluation."""
    rows: list[list] = [["run", "env_steps", "seeds", "iqm", "low", "high"]]
    for curve in curves:
        low, high = bootstrap_interval(curve.returns)
        for point in zip(curve.steps, iqm(curve.returns), low, high, strict=True):
            steps, *values = point
            rows.append(
                [curve.label, steps, len(curve.returns), *(f"{v:.9g}" if np.isfinite(v) else "" for v in values)]
            )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; leaves with status 2 and one line if a run cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m covey.experiment.compare", description="Compare finished runs.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs; the others are held to the first")
    parser.add_argument("--out", type=Path, default=Path("compare.png"), help="the figure (default: %(default)s)")
    parser.add_argument("--csv", type=Path, help="a file for the curves' numbers")
    parser.add_argument("--labels", nargs="+", help="names for the legend, one per run; by default from the settings")
    args = parser.parse_args(argv)
    try:
        compare(args.runs, args.out, args.csv, args.labels)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
