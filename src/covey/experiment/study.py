"""A study: training programs x presets x flags, all over the same seeds, from one TOML file.

    python -m covey.experiment.study results/studies/dispersion.toml [--small] [--only CELL ...] [--dry-run] [--core K]

    title = "Dispersion"
    seeds = 10                    # seeds 0 to 9 of every cell, in one program each
    compare = "sharing"           # the factor whose levels are the lines of a panel; other factors make panels
    preset = "dispersion"         # what makes a command line: program, preset, scale, flags
    flags = {num-evaluations = 20}
    [factors.agents.4]            # factor, level: what it changes of that; {agents} in a text is the level's name
    flags = {"env.num-agents" = 4}
    [factors.sharing.nops]
    program = "baselines/ippo.py"
    flags = {sharing = "{sharing}"}
    [small]                       # what --small changes: seeds, scale, flags (these last), levels = {factor = [...]}

Further keys: `metrics`, patterns of what the table holds (all of `eval/`); `scores`, what summary and figures show
(`eval/return`); `baseline`, a level of `compare` that others are held to; `pool = true` where the scores of all panels
have one scale, so that each level gets a line over all of them; `without`, tables of factor = level(s), which name
cells to leave out; `unequal`, what cells of a panel may differ in, of "env_steps" and "evaluations".

A cell is a combination of levels and a run folder, `runs/studies/<study>/<cell>`. Finished ones are skipped, cut-off
ones resumed, and one that another process is busy with is left to it: several processes can share a study, one per
core. Every cell is checked before the first one compiles. Programs run in this process; equal ones are compiled once
(JAX's cache on disk). Tables and figures of the cells that are finished go to `results/studies/<study>/`:

results.csv  a row per cell, seed, evaluation, metric and agent: nothing is averaged
summary.csv  per cell and score: interquartile mean over seeds of the last evaluation, with bootstrap interval
<score>.png  a panel per combination of the other factors' levels, a line per level of `compare`

Exit status: 0 done, 2 wrong input or a cell that failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import difflib
import fcntl
import fnmatch
import gc
import io
import itertools
import json
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from covey.experiment import cli, folder
from covey.experiment.checkpoint import RunError
from covey.experiment.program import evaluation_schedule
from covey.experiment.runner import RETURN, run
from covey.experiment.statistics import bootstrap_interval, iqm, probability_of_improvement

KEYS = {
    "title": str, "seeds": int, "compare": str, "factors": dict, "program": str, "preset": str, "scale": str,
    "flags": dict, "metrics": list, "scores": list, "baseline": str, "pool": bool, "without": list, "unequal": list,
    "small": dict,
}  # fmt: skip
LEVEL_KEYS = {"program": str, "preset": str, "scale": str, "flags": dict}
SMALL_KEYS = {"seeds": int, "scale": str, "flags": dict, "levels": dict}
BUDGETS = ("env_steps", "evaluations")
OURS = ("seed", "num-seeds", "run-dir", "runs-dir", "resume", "preset-scale", "quiet")
NAME = re.compile(r"[A-Za-z0-9_.+-]+")


@dataclass(frozen=True)
class Study:
    """What the file says."""

    name: str
    title: str
    seeds: int
    compare: str
    factors: dict[str, dict[str, dict]]  # factor -> level -> what it sets
    program: str | None = None
    preset: str | None = None
    scale: str | None = None
    flags: dict[str, Any] = field(default_factory=dict)
    last_flags: dict[str, Any] = field(default_factory=dict)  # of `small`, which win over those of levels
    metrics: tuple[str, ...] = ("eval/*",)
    scores: tuple[str, ...] = ("eval/return",)
    baseline: str | None = None
    pool: bool = False
    without: tuple[dict[str, list[str]], ...] = ()
    unequal: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One run of a study. argv: its command line without the program."""

    levels: dict[str, str]
    program: str
    preset: str
    argv: tuple[str, ...]

    @property
    def name(self) -> str:
        return "-".join(self.levels.values())

    @property
    def command(self) -> str:
        """What runs this cell alone."""
        return shlex.join(["python", self.program, *self.argv])


@dataclass(frozen=True)
class Prepared:
    """A cell whose program has read its command line and built what it would run."""

    cell: Cell
    planned: cli.Planned

    @property
    def budget(self) -> dict[str, Any]:
        """What cells of a panel have in common."""
        config, steps = self.planned.config, self.planned.learner.steps_per_update
        num_updates = config.updates(steps)
        schedule = evaluation_schedule(num_updates, config.num_evaluations)
        return {"env_steps": num_updates * steps, "evaluations": (schedule * steps).tolist()}


# --- Reading ---


def read(path: Path, small: bool = False) -> Study:
    """The study of a file, or its small variant. Raises ValueError naming the key that is wrong."""
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except FileNotFoundError:
        raise ValueError(f"there is no {path}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    _check_keys(table, KEYS, "the study")
    for key in ("title", "seeds", "compare", "factors"):
        if key not in table:
            raise ValueError(f"{key} is missing; needed: title, seeds, compare, factors")
    changes = table.pop("small", None)
    if changes is not None:
        _check_keys(changes, SMALL_KEYS, "small")
    elif small:
        raise ValueError(f"{path} has no [small]; run it without --small")
    factors: dict[str, dict[str, dict]] = table["factors"]
    for factor, levels in factors.items():
        if not isinstance(levels, dict) or not levels:
            raise ValueError(f"factors.{factor} is {levels}; allowed: a table of levels")
        for level, sets in levels.items():
            if not NAME.fullmatch(level):
                raise ValueError(f"factors.{factor} has a level {level!r}; allowed: letters, digits and _ . + -")
            _check_keys(sets, LEVEL_KEYS, f"factors.{factor}.{level}")
    every = {factor: list(levels) for factor, levels in factors.items()}
    name = path.stem
    if small and changes is not None:
        name = f"{name}-small"
        for factor, kept in changes.pop("levels", {}).items():
            _one_of(factor, factors, "small.levels")
            if not kept or not _texts(kept):
                raise ValueError(f"small.levels.{factor} is {kept!r}; allowed: a list of levels")
            for level in kept:
                _one_of(level, factors[factor], f"small.levels.{factor}")
            factors[factor] = {level: factors[factor][level] for level in kept}
        table["last_flags"] = changes.pop("flags", {})
        table |= changes
    for key in ("metrics", "scores", "unequal"):
        if key in table:
            if not _texts(table[key]) or (key == "scores" and not table[key]):
                raise ValueError(f"{key} is {table[key]}; allowed: a list of names")
            table[key] = tuple(table[key])
    table["without"] = tuple(_listed_levels(skip, every) for skip in table.get("without", ()))
    study = Study(name=name, **table)
    _check(study)
    return study


def _listed_levels(skip: Any, factors: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """An entry of `without`, each factor with a list of levels. Raises ValueError for those that do not exist."""
    if not isinstance(skip, dict) or not skip:
        raise ValueError(f"without has {skip!r}; allowed: tables of factor = level")
    listed = {factor: [level] if isinstance(level, str) else level for factor, level in skip.items()}
    for factor, levels in listed.items():
        _one_of(factor, factors, "without")
        if not _texts(levels):
            raise ValueError(f"without.{factor} is {levels!r}; allowed: a level, or a list of levels")
        for level in levels:
            _one_of(level, factors[factor], f"without.{factor}")
    return listed


def _check(study: Study) -> None:
    _one_of(study.compare, study.factors, "compare")
    if study.baseline is not None:
        _one_of(study.baseline, study.factors[study.compare], "baseline")
    if study.seeds < 1:
        raise ValueError(f"seeds is {study.seeds}; allowed: an integer of at least 1")
    for what in study.unequal:
        _one_of(what, BUDGETS, "unequal")
    sets = [study.flags, study.last_flags, *(s.get("flags", {}) for f in study.factors.values() for s in f.values())]
    for flag, value in itertools.chain.from_iterable(each.items() for each in sets):
        if flag.replace("_", "-") in OURS:
            raise ValueError(f"flags has {flag}, which the study sets itself (seeds, scale; folders are its own)")
        if isinstance(value, dict):
            raise ValueError(
                f'flags has a table {flag}; allowed: flags in quotes, "{flag}.{next(iter(value), "")}" = ...'
            )


def _texts(values: Any) -> bool:
    """Whether this is a list of texts."""
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _check_keys(table: Any, keys: Mapping[str, type], where: str) -> None:
    if not isinstance(table, dict):
        raise ValueError(f"{where} is {table!r}; allowed: a table with {', '.join(keys)}")
    for key, value in table.items():
        _one_of(key, keys, where)
        if type(value) is not keys[key]:
            raise ValueError(f"{key} of {where} is {value!r}; allowed: a {keys[key].__name__}")


def _one_of(name: str, names: Any, where: str) -> None:
    if name not in names:
        close = difflib.get_close_matches(name, list(names), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"{where} has {name!r}; {hint}allowed: {', '.join(names)}")


def cells(study: Study) -> list[Cell]:
    """All cells, the first factor varying slowest. Raises ValueError if one lacks a program or a preset."""
    made = []
    for combination in itertools.product(*(levels.items() for levels in study.factors.values())):
        levels = {factor: level for factor, (level, _) in zip(study.factors, combination, strict=True)}
        if any(all(levels[factor] in skipped for factor, skipped in skip.items()) for skip in study.without):
            continue
        sets: dict[str, Any] = {"program": study.program, "preset": study.preset, "scale": study.scale}
        flags = dict(study.flags)
        for _, own in combination:
            sets |= {key: value for key, value in own.items() if key != "flags"}
            flags |= own.get("flags", {})
        flags |= study.last_flags
        name = "-".join(levels.values())
        for key in ("program", "preset"):
            if not sets[key]:
                raise ValueError(f"cell {name} has no {key}; the study or a level of it must set one")
        scale = ["--preset-scale", sets["scale"]] if sets["scale"] else []
        argv = [sets["preset"], *scale, "--num-seeds", str(study.seeds), *_arguments(flags)]
        program, preset, *argv = [_filled(text, levels) for text in (sets["program"], sets["preset"], *argv)]
        made.append(Cell(levels, program, preset, tuple(argv)))
        if made[-1].name in {cell.name for cell in made[:-1]}:
            raise ValueError(f"two cells are called {name}; rename levels of {', '.join(study.factors)}")
    if not made:
        raise ValueError("without leaves no cell")
    return made


def _filled(text: str, levels: Mapping[str, str]) -> str:
    """`text` with the name of a factor's level for {factor}."""
    try:
        return text.format_map(levels)
    except (KeyError, ValueError, IndexError):
        raise ValueError(f"{text!r} has something in braces; allowed there: {', '.join(levels)}") from None


def _arguments(flags: Mapping[str, Any]) -> Iterator[str]:
    for flag, value in flags.items():
        if isinstance(value, bool):
            yield f"--{flag}" if value else "--" + re.sub(r"([^.]+)$", r"no-\1", flag)  # --env.no-collisions
        elif isinstance(value, list):
            yield from (f"--{flag}", *map(str, value))
        else:
            yield from (f"--{flag}", str(value))


# --- Preparing ---


def prepare(cell: Cell) -> Prepared:
    """Have the cell's program read its command line and build its job, without running it.

    Raises ValueError with what the program says is wrong.
    """
    try:
        if not cell.program.endswith(".py"):
            raise ValueError(f"program is {cell.program}; allowed: a Python file")
        prepared = Prepared(cell, cli.plan(cell.program, cell.argv))
        _ = prepared.budget
    except ValueError as error:
        raise ValueError(f"cell {cell.name}: {error}") from None
    return prepared


def check_scores(study: Study, prepared: Sequence[Prepared]) -> None:
    """Raise ValueError if a program does not report one of the scores, which tracing its evaluation tells; all have
    `eval/return`."""
    asked = [score for score in study.scores if score.startswith("eval/") and score != RETURN]
    for one in {(one.cell.program, one.cell.preset): one for one in prepared}.values() if asked else ():
        learner, hp = one.planned.learner, one.planned.hp
        carry = jax.eval_shape(learner.init, jax.random.key(0), hp)
        names = [RETURN, *(f"eval/{name}" for name in jax.eval_shape(learner.evaluate, carry, jax.random.key(0)))]
        for score in asked:
            _one_of(score, names, f"scores (cell {one.cell.name})")


def check_budgets(study: Study, prepared: Sequence[Prepared]) -> None:
    """Raise ValueError if cells of a panel differ in environment steps or evaluation points."""
    first: dict[tuple[str, ...], Prepared] = {}
    for one in prepared:
        other = first.setdefault(panel_of(study, one.cell.levels), one)
        for what in BUDGETS:
            mine, theirs = one.budget[what], other.budget[what]
            if what not in study.unequal and mine != theirs:
                if what == "evaluations":
                    mine, theirs = f"after {_listed(mine)} steps", f"after {_listed(theirs)} steps"
                raise ValueError(
                    f"{what} of {one.cell.name} and {other.cell.name} differ: {mine} and {theirs}; "
                    f"allowed: equal ones, or unequal = [{what!r}]"
                )


def panel_of(study: Study, levels: Mapping[str, str]) -> tuple[str, ...]:
    """The levels of all factors but the one that is compared."""
    return tuple(level for factor, level in levels.items() if factor != study.compare)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:3])) + (f", ... ({len(numbers)})" if len(numbers) > 3 else "")


# --- Running ---


def state_of(path: Path, prepared: Prepared) -> str:
    """ "finished", "cut off" or "not begun". Raises ValueError if the folder holds a run with other settings."""
    if not (path / "config.json").exists():
        return "not begun"
    try:
        folder.check_same(folder.read_config(path)["args"], folder.describe(prepared.planned.description["args"]))
    except RunError as error:
        raise ValueError(f"cell {prepared.cell.name}: {error}; delete {path} to start anew") from None
    return "finished" if (path / "summary.json").exists() else "cut off"


def train(prepared: Prepared, path: Path) -> None:
    """Run the cell, or what is left of it."""
    begun = (path / "config.json").exists()
    learner, hp, config, description, data, render = prepared.planned
    config = replace(config, resume=path if begun else None, run_dir=None if begun else path)
    run(learner, hp, config, description, data=data, render=render)
    jax.clear_caches()  # Each compiled program holds memory maps, of which a process has so many.
    gc.collect()


@contextlib.contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether no other process is busy with this cell; none is until the end of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


# --- Tables and figures ---


def rows(study: Study, prepared: Prepared, path: Path) -> Iterator[dict[str, Any]]:
    """The tidy rows of a finished cell: one per seed, evaluation, metric and agent. `finite` is always among them."""
    cell = prepared.cell
    about = {"cell": cell.name, "program": Path(cell.program).stem, "preset": cell.preset, **cell.levels}
    with (path / "metrics.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            for column, value in line.items():
                if column in ("update", "env_steps", "seed"):
                    continue
                metric, _, agent = column.partition("/agent_")
                if metric == "finite" or any(fnmatch.fnmatch(metric, pattern) for pattern in study.metrics):
                    where = {"seed": line["seed"], "agent": agent, "env_steps": line["env_steps"]}
                    yield about | where | {"metric": metric, "value": value}


def curves(path: Path, score: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Environment steps [P] and a score [S, P], mean over agents, of the seeds that stayed finite; None if there is no
    such score."""
    with (path / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    columns = [c for c in table[0] if c == score or re.fullmatch(rf"{re.escape(score)}/agent_\d+", c)]
    if not columns:
        return None
    seeds = sorted({line["seed"] for line in table}, key=int)
    steps = np.array([int(line["env_steps"]) for line in table if line["seed"] == seeds[0]])
    lanes = [[line for line in table if line["seed"] == seed] for seed in seeds]
    lanes = [lane for lane in lanes if all(line["finite"] == "1" for line in lane)]
    values = np.array([[np.mean([float(line[c] or "nan") for c in columns]) for line in lane] for lane in lanes])
    return steps, values.reshape(len(lanes), len(steps))


def summarise(study: Study, finished: Mapping[str, tuple[Prepared, Path]]) -> list[dict[str, Any]]:
    """A line per cell and score; with `pool` a line per level over all panels where every level has runs that stayed
    finite."""
    lines = []
    for score in study.scores:
        ends: dict[tuple[str, ...], dict[str, np.ndarray]] = {}  # panel -> level -> [S]
        own = []
        for prepared, path in finished.values():
            curve = curves(path, score)
            if curve is None:
                raise ValueError(f"scores has {score!r}, which cell {prepared.cell.name} does not report")
            levels = prepared.cell.levels
            level, panel = levels[study.compare], panel_of(study, levels)
            ends.setdefault(panel, {})[level] = curve[1][:, -1]
            seconds = json.loads((path / "summary.json").read_text())["run_seconds"]
            own.append((levels, panel, level, curve, seconds))
        for levels, panel, level, (steps, values), seconds in own:
            tasks = [ends[panel][level]]
            base = [ends[panel][study.baseline]] if study.baseline in ends[panel] else None
            line = {"cell": "-".join(levels.values()), **levels, "score": score, "env_steps": steps[-1]}
            line |= _statistics(tasks, base, best=_best([end] for end in ends[panel].values()))
            lines.append(line | {"mean_over_training": iqm(values.mean(axis=1)), "run_seconds": seconds})
        if study.pool:
            names = list(study.factors[study.compare])
            full = [
                panel for panel, levels in ends.items() if all(name in levels and levels[name].size for name in names)
            ]
            pooled = {name: [ends[panel][name] for panel in full] for name in names} if full else {}
            best = _best(pooled.values())
            for name, tasks in pooled.items():
                base = pooled[study.baseline] if study.baseline else None
                line = {"cell": f"all {len(full)} panels", **dict.fromkeys(study.factors, ""), study.compare: name}
                lines.append(line | {"score": score, "env_steps": ""} | _statistics(tasks, base, best))
    return lines


def _best(candidates: Iterable[list[np.ndarray]]) -> float:
    """The largest interquartile mean of runs [S] of each task; NaN where no candidate has runs that say anything."""
    values = [float(iqm(runs)) for runs in map(np.concatenate, candidates) if runs.size]
    return max((value for value in values if not np.isnan(value)), default=np.nan)


def _statistics(tasks: list[np.ndarray], base: list[np.ndarray] | None, best: float) -> dict[str, Any]:
    """Of runs [S] of each task; pooled over tasks, which the bootstrap is stratified by."""
    runs = np.concatenate(tasks)
    if not runs.size:  # all diverged
        return {"seeds": 0} | dict.fromkeys(("iqm", "low", "high", "min", "max", "best", "p_above_baseline"), "")
    low, high = bootstrap_interval(tasks)
    value = float(iqm(runs))
    mark = "best" if value == best else "overlaps" if high >= best else ""
    line = {"seeds": len(runs), "iqm": value, "low": low, "high": high, "min": runs.min(), "max": runs.max()}
    return line | {"best": mark, "p_above_baseline": probability_of_improvement(tasks, base) if base else ""}


def write_table(path: Path, lines: Iterator[dict[str, Any]] | list[dict[str, Any]], command: str) -> int:
    """A CSV whose first lines, starting with '#', say how it was made; returns its number of rows."""
    about = folder.surroundings()
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    device = about["device"]
    commit = (about["git"] or {}).get("commit", "unknown")
    text = io.StringIO()
    text.write(
        f"# {command}\n# {device['platform']} {device['kind']} x {device['count']}, {os.cpu_count()} CPU cores; "
    )
    text.write(f"{versions}; commit {commit[:10]}\n")
    writer, count = None, 0
    for line in lines:
        if writer is None:
            writer = csv.DictWriter(text, list(line), restval="", extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float | np.floating) else v for k, v in line.items()})
        count += 1
    folder.write(path, text.getvalue())
    return count


def draw(study: Study, finished: Mapping[str, tuple[Prepared, Path]], score: str, path: Path) -> None:
    """A panel per combination of the other factors' levels, a line with interval per level of `compare`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    from covey.experiment.plot import COLOURS

    panels: dict[tuple[str, ...], list[tuple[str, np.ndarray, np.ndarray]]] = {}
    for prepared, run_path in finished.values():
        curve = curves(run_path, score)
        assert curve is not None  # `summarise` has looked
        if curve[1].size:
            levels = prepared.cell.levels
            panels.setdefault(panel_of(study, levels), []).append((levels[study.compare], *curve))
    names = list(study.factors[study.compare])
    if not panels:
        return
    lines = -(-len(panels) // 4)
    columns = -(-len(panels) // lines)
    figure = Figure(figsize=(4.2 * columns + 1.5, 3.2 * lines + 0.4), layout="constrained")
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    handles: dict[str, Any] = {}
    for axes, (panel, drawn) in zip(grid, panels.items(), strict=False):
        for name, steps, values in drawn:
            i = names.index(name)
            colour, style = COLOURS[i % len(COLOURS)], "-" if i < len(COLOURS) else "--"
            low, high = bootstrap_interval(values, num_resamples=500)
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
            marker = "o" if len(steps) == 1 else None
            handles[name] = axes.plot(steps, iqm(values), style, color=colour, marker=marker)[0]
        axes.set_title(_title(study, panel), fontsize=10)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92", linewidth=0.8)
    figure.supxlabel("environment steps per seed", fontsize=10)
    figure.supylabel(f"{score.removeprefix('eval/')}, IQM and 95 % interval", fontsize=10)
    figure.suptitle(f"{study.title} ({study.seeds} seeds)", fontsize=11, fontweight="bold")
    figure.legend([handles[n] for n in names if n in handles], [n for n in names if n in handles], loc="outside right")  # pyright: ignore[reportArgumentType]
    folder.atomically(path, lambda file: figure.savefig(file, dpi=100))


def _title(study: Study, panel: Sequence[str]) -> str:
    """A panel's levels in words: one that begins with a digit after its factor's name."""
    factors = [factor for factor in study.factors if factor != study.compare]
    return ", ".join(f"{f} {level}" if level[0].isdigit() else level for f, level in zip(factors, panel, strict=True))


def write_results(study: Study, finished: Mapping[str, tuple[Prepared, Path]], out: Path, command: str) -> None:
    """Tables and figures of the finished cells."""
    out.mkdir(parents=True, exist_ok=True)
    lines = summarise(study, finished)
    every = itertools.chain.from_iterable(rows(study, prepared, path) for prepared, path in finished.values())
    count = write_table(out / "results.csv", every, command)
    write_table(out / "summary.csv", lines, command)
    for score in study.scores:
        draw(study, finished, score, out / f"{score.removeprefix('eval/').replace('/', '_')}.png")
    for line in lines:
        if line["seeds"]:
            label = (
                line["cell"] if not str(line["cell"]).startswith("all") else f"{line['cell']}, {line[study.compare]}"
            )
            interval = f"[{line['low']:.4g}, {line['high']:.4g}]" if line["seeds"] > 1 else ""
            print(
                f"{label:40} {line['score']:24} {line['iqm']:9.4g} {interval:20} {line['seeds']} seeds {line['best']}"
            )
    print(f"{count} rows of {len(finished)} cells in {out}")


# --- Command line ---


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; leaves with a status as the module's docstring says."""
    summary, usage = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        prog="python -m covey.experiment.study", description=summary, epilog=usage,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("file", type=Path, help="the study, a TOML file")
    parser.add_argument("--small", action="store_true", help="its small variant, for two CPU cores")
    parser.add_argument("--only", nargs="+", metavar="CELL", help="train these cells only; patterns like 'nops-*'")
    parser.add_argument("--dry-run", action="store_true", help="say what there is to do, and do nothing")
    parser.add_argument("--only-draw", action="store_true", help="train nothing; tables and figures of what is there")
    parser.add_argument("--core", type=int, metavar="K", help="run on this core of the machine only")
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="run folders (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="tables and figures (default: beside the file, by the study's name)")
    args = parser.parse_args(argv)
    try:
        failed = _main(args)
    except (ValueError, RunError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    if failed:
        sys.exit(2)


def _main(args: argparse.Namespace) -> int:
    """Does what was asked for; returns how many cells failed."""
    if args.core is not None:
        if args.core not in (cores := os.sched_getaffinity(0)):
            raise ValueError(f"--core is {args.core}; allowed: {', '.join(map(str, sorted(cores)))}")
        os.sched_setaffinity(0, {args.core})
    study = read(args.file, args.small)
    prepared = [prepare(cell) for cell in cells(study)]
    check_budgets(study, prepared)
    check_scores(study, prepared)
    paths = {one.cell.name: args.runs / study.name / one.cell.name for one in prepared}
    states = {name: state_of(paths[name], one) for one in prepared for name in [one.cell.name]}
    wanted = _wanted(args.only, list(states))
    if args.dry_run:
        for one in prepared:
            budget = f"{one.budget['env_steps']} steps, {len(one.budget['evaluations'])} evaluations"
            chosen = "" if one.cell.name in wanted else " (not chosen)"
            print(
                f"{one.cell.name}: {states[one.cell.name]}{chosen}; {study.seeds} seeds, {budget}\n  {one.cell.command}"
            )
        return 0
    failed = 0
    for one in prepared:
        name = one.cell.name
        if name not in wanted or args.only_draw:
            continue
        with alone(paths[name]) as free:
            state = state_of(paths[name], one)  # Another process may have finished it meanwhile.
            if not free or state == "finished":
                print(f"cell {name}: {'left to another process' if not free else 'finished before'}", flush=True)
                continue
            print(f"cell {name}: {state}; {one.cell.command}", flush=True)
            try:
                train(one, paths[name])
            except RunError as error:
                failed += 1
                print(f"error: cell {name}: {error}", file=sys.stderr)
    finished = {
        one.cell.name: (one, paths[one.cell.name])
        for one in prepared
        if state_of(paths[one.cell.name], one) == "finished"
    }
    if not finished:
        print("no cell is finished")
        return failed
    out = args.out or args.file.parent / study.name
    small = " --small" if args.small else ""
    write_results(study, finished, out, f"python -m covey.experiment.study {args.file}{small}")
    if missing := [name for name in paths if name not in finished]:
        print(f"not finished: {', '.join(missing)}")
    return failed


def _wanted(patterns: Sequence[str] | None, names: Sequence[str]) -> set[str]:
    if patterns is None:
        return set(names)
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            close = difflib.get_close_matches(pattern, names, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ValueError(f"--only has {pattern!r}, which no cell matches; {hint}cells: {', '.join(names)}")
    return {name for pattern in patterns for name in fnmatch.filter(names, pattern)}


if __name__ == "__main__":
    main()
