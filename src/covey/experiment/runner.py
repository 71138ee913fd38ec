"""Runs a learner from the host: compile once, advance in chunks, save after each, report at the end.

Everything that a user watches happens between two calls of the one compiled program (`covey.experiment.program`), so
the number of chunks changes what is seen and saved, and never the results.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from covey.experiment import checkpoint, folder
from covey.experiment.checkpoint import RunError
from covey.experiment.log import Log, duration, number
from covey.experiment.program import Program, State, evaluation_schedule, place, replicate, seed_keys, seed_mesh
from covey.experiment.statistics import bootstrap_interval, iqm
from covey.learners.base import Learner

MIB = 2**20
RETURN = "eval/return"


@dataclass(frozen=True)
class RunConfig:
    """How long to train, over how many seeds, and what to keep."""

    seed: int = 0
    """First seed; number i of the run uses the key of seed + i, so it can be repeated alone."""
    num_seeds: int = 1
    """Seeds trained at the same time in one program."""
    total_steps: int = 1_000_000
    """Environment steps per seed, rounded down to whole updates (at least one)."""
    num_updates: int | None = None
    """Updates, in place of total_steps; an offline learner, which takes no steps, needs it."""
    num_evaluations: int = 20
    """Evaluations, evenly spaced, the last one after the last update; at most one per update."""
    chunks: int = 20
    """Calls of the program that the run is cut into, with progress and checkpoints between; results stay the same."""
    seeds_per_batch: int | None = None
    """Seeds computed at the same time on each device, to bound memory; divides the device's seeds. None for all."""
    runs_dir: Path = Path("runs")
    """Folder in which the run makes its own folder, <program>-<preset>-<time>."""
    run_dir: Path | None = None
    """The run's own folder, in place of one in runs_dir."""
    resume: Path | None = None
    """Folder of a run to continue from its last checkpoint."""
    video: bool = True
    """Draw an episode of the median seed at the end."""
    deterministic: bool = False
    """On a GPU: use deterministic kernels only, which is slower. A CPU is deterministic anyway."""
    quiet: bool = False
    """Print warnings and errors only."""

    def __post_init__(self) -> None:
        for name in ("num_seeds", "total_steps", "num_updates", "num_evaluations", "chunks", "seeds_per_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; allowed: an integer of at least 1")
        if not 0 <= self.seed < 2**31 - self.num_seeds:
            raise ValueError(f"seed is {self.seed}; allowed: 0 to {2**31 - self.num_seeds - 1}")

    def updates(self, steps_per_update: int) -> int:
        """Updates of the run. Raises RunError if a learner without steps is not told how many."""
        if self.num_updates is not None:
            return self.num_updates
        if steps_per_update < 1:
            raise RunError(
                "num_updates is None; this learner takes no environment steps, so it needs a number of updates"
            )
        return max(1, self.total_steps // steps_per_update)


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    folder: where everything is.
    state: the last state, leading axis S.
    metrics: all metrics [U, S, ...]; `eval/return` [U, S] is the mean over agents of `eval/episode_return`.
    diverged: seed -> the update after which its policy was not finite; such seeds are in no statistic.
    summary: the closing table's numbers, by name.
    """

    folder: Path
    state: State
    metrics: dict[str, np.ndarray]
    diverged: dict[int, int]
    summary: dict[str, Any]


def run(
    learner: Learner,
    hp: Any,
    config: RunConfig,
    description: dict[str, Any] | None = None,
    *,
    data: Any = None,
    render: Callable[[Any], np.ndarray] | None = None,
) -> RunResult:
    """Train `learner` on all seeds and write the run's folder.

    hp: leaves of shape [], or [S] for one value per seed. data: arrays that all seeds share (an offline dataset).
    description: optional names for the record: "program", "preset", "env", "argv" (list), and "args" (all settings;
    else those of learner, hp and config are recorded). render: state of an episode -> uint8[height, width, 3].

    Raises RunError, one line for the user, if the folder cannot be written or a run cannot be resumed: its settings
    differ, or its checkpoint is damaged. A seed that diverges raises nothing: see `RunResult.diverged`.
    """
    description = {"program": "run", "preset": "", "argv": []} | (description or {})
    description.setdefault("args", {"learner": learner, "hp": hp, "run": config})
    settings = folder.describe(description["args"])
    log = Log(config.quiet)
    num_updates = config.updates(learner.steps_per_update)
    use_compilation_cache()

    # --- Everything that can be wrong is found before compiling ---
    mesh = seed_mesh(config.num_seeds)
    program = Program(learner, num_updates, config.num_evaluations, config.seeds_per_batch, mesh)
    hp = jax.tree.map(np.asarray, hp)  # host arrays, since the state is donated and must not take the caller's along
    keys = seed_keys(config.seed, config.num_seeds)
    template = jax.eval_shape(program.init, keys, hp)
    _check_evaluation(learner, template)
    if config.resume:
        path = config.resume
        _check_resumable(path, settings, log)
        saved = checkpoint.load(path / "checkpoints", template)
    else:
        path = folder.create(config, description["program"], description["preset"])
        folder.write_json(path / "config.json", description | {"args": settings} | folder.surroundings())
        saved = None
    done = 0 if saved is None else int(saved.update)
    metrics, seconds = folder.read_chunks(path, done)

    # --- Compile ---
    length = -(-num_updates // min(config.chunks, num_updates))
    devices = mesh.size if mesh else 1
    policies = jax.tree.leaves(jax.eval_shape(jax.vmap(learner.policy), template.carries))
    log.header(
        {
            "run": f"{description['program']} {description['preset']}".strip(),
            **({"environment": description["env"]} if "env" in description else {}),
            "folder": str(path),
            "device": f"{jax.local_devices()[0].device_kind} x {devices} of {jax.local_device_count()}",
            "seeds": f"{config.num_seeds} ({config.seed} to {config.seed + config.num_seeds - 1})",
            "updates": f"{num_updates} of {number(learner.steps_per_update)} steps, in chunks of {length}",
            "parameters": f"{sum(x.size for x in policies) // config.num_seeds} per seed",
        }
    )
    on_gpu = jax.default_backend() == "gpu"
    options: Any = {"xla_gpu_deterministic_ops": True} if config.deterministic and on_gpu else None
    began = time.perf_counter()
    compile_seconds: float | None = None
    compiled: Any = None
    init = jax.jit(program.init, compiler_options=options)
    state = init(keys, hp) if saved is None else place(saved, mesh)
    saved = None  # as large as the state: let it go
    if done < num_updates:
        data = replicate(data, mesh)
        advance = jax.jit(partial(program.advance, length=length), donate_argnums=0, compiler_options=options)
        compiled = advance.lower(state, jnp.int32(0), data).compile()
        compile_seconds = time.perf_counter() - began
        log.line(f"compiled in {duration(compile_seconds)}; {_memory(compiled, config.num_seeds // devices)}")
        if config.resume:
            log.line(f"resuming after update {done} of {num_updates}")
    else:
        log.line(f"this run was finished already ({done} updates): writing its results again")

    # --- Train ---
    chunks, diverged = [metrics] if metrics else [], _diverged(metrics, config.seed)
    log.start(done, num_updates, learner.steps_per_update * config.num_seeds)
    first_seconds = seconds
    try:
        with _interrupts_wait() as interrupted:
            while done < num_updates and not interrupted():
                num = min(length, num_updates - done)
                began = time.perf_counter()
                state, buffers = compiled(state, jnp.int32(num), data)
                chunk = {name: np.asarray(x)[:num] for name, x in jax.device_get(buffers).items()}
                took = time.perf_counter() - began
                _add_return(chunk)
                # Metrics first: a checkpoint promises that the metrics up to it are there.
                folder.write_chunk(path, done, done + num, chunk, took)
                checkpoint.save(path / "checkpoints", done + num, state)
                seconds += took
                for seed, update in _diverged(chunk, config.seed, done).items():
                    if seed not in diverged:
                        diverged[seed] = update
                        log.warning(
                            f"seed {seed} diverged: its policy is not finite after update {update}; the others go on"
                        )
                done += num
                chunks.append(chunk)
                log.advance(done, seconds - first_seconds, _latest(chunk, config.seed, diverged))
        if interrupted() and done < num_updates:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        log.stop()
        log.warning(f"interrupted; saved up to update {done} of {num_updates}. Continue with --resume {path}")
        raise
    finally:
        log.stop()

    # --- Close ---
    metrics = folder.join(chunks)
    schedule = evaluation_schedule(num_updates, config.num_evaluations)
    folder.write_metrics(path, metrics, schedule, learner.steps_per_update, config.seed)
    about = {"program": description["program"], "seed": str(config.seed), "num_seeds": str(config.num_seeds)}
    folder.write_policy(path / "policy.safetensors", jax.vmap(learner.policy)(state.carries), about)
    steps = num_updates * learner.steps_per_update * config.num_seeds
    healthy = [i for i in range(config.num_seeds) if config.seed + i not in diverged]
    summary = _summary(metrics[RETURN][-1][healthy]) | {
        "diverged": {str(seed): update for seed, update in diverged.items()},
        "compile_seconds": compile_seconds or _previous(path, "compile_seconds"),
        "run_seconds": seconds,
        "steps_per_second": steps / seconds,
        "steps_per_update": learner.steps_per_update,
        "num_evaluations": config.num_evaluations,
        "first_seed": config.seed,
    }
    folder.write_json(path / "summary.json", summary)
    return_curves = metrics[RETURN][schedule - 1]
    drawn = _draw_curve(path, description, config, return_curves[:, healthy], schedule * learner.steps_per_update)
    filmed = _film(path, learner, state, config, return_curves[-1], healthy, render) if config.video else None
    _report(log, path, summary, config, diverged, [drawn, filmed])
    return RunResult(path, state, metrics, diverged, summary)


@contextmanager
def _interrupts_wait() -> Iterator[Callable[[], bool]]:
    """Within this block the first Ctrl-C is only noted, for the caller to ask about between two chunks: while one is
    saved it would cut off threads, which complain or swallow it. A second one interrupts at once."""
    noted: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        if len(noted) > 1:
            raise KeyboardInterrupt

    # Whoever ignores interrupts, or has a way of their own, keeps it; and only the main thread can change it.
    ours = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(noted)
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


def _check_resumable(path: Path, settings: Any, log: Log) -> None:
    """Raise RunError unless `path` holds a run with these settings, and all that it should have saved."""
    record = folder.read_config(path)
    folder.check_same(record["args"], settings)
    folder.check_writable(path)
    # One file of metrics may be there before the first checkpoint is.
    if not checkpoint.found(path / "checkpoints") and len(list(path.glob("metrics/[0-9]*.npz"))) > 1:
        raise RunError(f"{path / 'checkpoints'} holds no checkpoint, though the run had made some; start a new run")
    if changes := folder.changed_surroundings(record):
        log.warning(f"results may differ from an undisturbed run's in the last digits: {'; '.join(changes)}")


def use_compilation_cache() -> None:
    """Keep compiled programs on disk, unless JAX was told where already: $COVEY_CACHE_DIR or ~/.cache/covey/xla."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        path = os.environ.get("COVEY_CACHE_DIR") or Path.home() / ".cache" / "covey" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _check_evaluation(learner: Learner, template: State) -> None:
    """Raise ValueError before compiling if `evaluate` lacks the number that curves and tables show."""
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), template.carries)
    names = sorted(jax.eval_shape(learner.evaluate, one, jax.random.key(0)))
    if not {"episode_return", "return"} & set(names):
        raise ValueError(
            f"{type(learner).__name__}.evaluate gives {names}; needed: 'episode_return' [N] or 'return' []"
        )


def _add_return(metrics: dict[str, np.ndarray]) -> None:
    """Add `eval/return` [U, S], the mean over agents of `eval/episode_return`, unless it is there."""
    if RETURN not in metrics:
        returns = metrics["eval/episode_return"]
        metrics[RETURN] = returns.mean(axis=2) if returns.ndim == 3 else returns


def _memory(compiled: Any, seeds: int) -> str:
    """The program's memory on one device, in words."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return "its memory is unknown on this device"
    parts = (analysis.argument_size_in_bytes, analysis.output_size_in_bytes, analysis.temp_size_in_bytes)
    total = (sum(parts) - analysis.alias_size_in_bytes) / MIB
    return f"needs {total:.3g} MiB per device, {total / seeds:.3g} MiB per seed"


def _diverged(metrics: dict[str, np.ndarray], first_seed: int, done: int = 0) -> dict[int, int]:
    """Seed -> number of updates after which its policy was first not finite."""
    if not metrics:
        return {}
    broken = ~metrics["finite"]
    return {first_seed + int(i): done + int(broken[:, i].argmax()) + 1 for i in np.flatnonzero(broken.any(axis=0))}


def _latest(chunk: dict[str, np.ndarray], first_seed: int, diverged: dict[int, int]) -> str:
    """The newest evaluation of the seeds that are well, in words."""
    returns = chunk[RETURN][:, [first_seed + i not in diverged for i in range(chunk[RETURN].shape[1])]]
    rows = returns[~np.isnan(returns).all(axis=1)]
    return f"return {iqm(rows[-1]):.4g} (IQM)" if len(rows) else ""


def _summary(returns: np.ndarray) -> dict[str, Any]:
    """Statistics of the final returns [seeds]."""
    if not returns.size:
        return {"iqm": None, "low": None, "high": None, "min": None, "max": None, "seeds": 0}
    low, high = bootstrap_interval(returns)
    values = {"iqm": iqm(returns), "low": low, "high": high, "min": returns.min(), "max": returns.max()}
    return {k: float(v) if np.isfinite(v) else None for k, v in values.items()} | {"seeds": int(returns.size)}


def _previous(path: Path, name: str) -> float | None:
    """A number of the summary that a finished run wrote before."""
    file = path / "summary.json"
    return json.loads(file.read_text()).get(name) if file.is_file() else None


def _draw_curve(path: Path, description: dict, config: RunConfig, curves: np.ndarray, steps: np.ndarray) -> Path | None:
    from covey.experiment.plot import Curve, save_figure

    if not curves.shape[1]:
        return None
    title = f"{description['program']} {description['preset']}".strip()
    axis = "environment steps per seed"
    if not steps.any():
        steps, axis = evaluation_schedule(len(steps), len(steps)), "evaluation"
    save_figure(path / "curve.png", [Curve(title, steps, curves.T)], title=title, x_label=axis, seed_lines=True)
    return path / "curve.png"


def _film(
    path: Path,
    learner: Learner,
    state: State,
    config: RunConfig,
    returns: np.ndarray,
    healthy: list[int],
    render: Callable[[Any], np.ndarray] | None,
) -> str:
    """Draw an episode of the seed with the median return; says where it is, or why there is none."""
    from covey.experiment.video import episode_frames, save_gif

    if render is None or not healthy:
        return "no video: " + ("the environment has no render" if healthy else "no seed is well")
    median = sorted(healthy, key=lambda i: returns[i])[(len(healthy) - 1) // 2]
    carry = jax.tree.map(lambda x: x[median], state.carries)
    try:
        frames = episode_frames(learner, carry, jax.random.key(config.seed + median), render)
    except NotImplementedError as error:
        return f"no video: {error}"
    save_gif(path / "video.gif", frames)
    return f"{path / 'video.gif'} (seed {config.seed + median}, the median one)"


def _report(
    log: Log,
    path: Path,
    summary: dict[str, Any],
    config: RunConfig,
    diverged: dict[int, int],
    files: list[Path | str | None],
) -> None:
    def show(name: str) -> str:
        return "-" if summary[name] is None else f"{summary[name]:.4g}"

    head = ["IQM", "95 % interval", "min to max", "seeds", "compile", "run", "steps/s"]
    interval = "-" if summary["low"] is None else f"{show('low')} to {show('high')}"
    seconds = summary["compile_seconds"]
    row = [show("iqm"), interval, f"{show('min')} to {show('max')}", str(summary["seeds"])]
    row += ["-" if seconds is None else duration(seconds), duration(summary["run_seconds"])]
    log.table(head, [[*row, number(summary["steps_per_second"])]], title=f"{RETURN} at the end, mean over agents")
    if diverged:
        listed = ", ".join(f"{seed} (after update {update})" for seed, update in diverged.items())
        log.line(f"left out: {len(diverged)} of {config.num_seeds} seeds diverged: {listed}")
    log.line(f"results in {path}")
    for file in files:
        if file:
            log.line(str(file))
