"""Speed and memory of CODA's generator: trajectories/s of guided sampling, updates/s of fitting, against seeds.

    python benchmarks/diffusion.py --out results/benchmarks/diffusion.csv
    python benchmarks/diffusion.py --pgd CHECKOUT      beside the sampler of EmptyJackson/policy-guided-diffusion

Sizes are those of `algos/coda.py`'s presets: `halfcheetah` is the paper's (20 steps, 1000 segments, 40 steps of Heun, a
GRU of 64 units for a policy), `game` the paper's for Twin Peaks (one step), `small` ours for HalfCheetah. Rows of data
are made up where only their sizes matter. Seeds have networks and policies of their own and are mapped over in one
program; rates are over all seeds. Programs take turns within one process. `fit` runs a few steps of the whole fit:
start, draw of segments, gradients, Adam, moving average, one validation.

Policy-guided diffusion is run twice, by its own code from the checkout: with our denoiser in its sampler, so that one
evaluation of the network costs the same, and with its own U-Net of the width whose operations, as XLA counts them, come
closest. It guides by the denoised trajectory with normalised gradients, as CODA does, and asks its network three times
a step: once more for guidance. It makes one trajectory of the given length and drops its last step.

`seconds` are medians of calls by the clock, `cpu_seconds` of the process: they differ where others use the cores, too.
`estimated_mib` is what XLA says that a program needs beside its arguments, `measured_mib` what the process's memory
rose by in its first call (on accelerators the rise of the largest use so far); it is too small where the process still
held memory of before. A first call of more than 10 s counts as a timed one. Cells with calls that would take longer
than `--limit` are left out and say so. The table is written after each size.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from peers import load_file
from timing import compile_once, write_table

import envs_jax
from algos.tasks_coda import Args as Preset
from algos.tasks_coda import polynomial_game, robot
from covey.diffusion import Generator, Layout, diffuse, diffused_data, guidance
from covey.diffusion.segments import DiffusedData
from covey.diffusion.unet import TemporalUNet, init_unet
from covey.experiment import seed_keys
from covey.learners.offline import AnalyticMADDPG, OfflineLearner, Team, make_base
from envs_jax.games.polynomial import PolynomialGame, TwinPeaks, payoff

SizeName = Literal["small", "game", "halfcheetah"]
LONG_CALL = 10.0
"""Seconds from which on warming up is nothing beside a call."""
SCALE = 1.0
"""Guidance; nothing but 0 makes a difference to the time."""


@dataclass(frozen=True)
class Args:
    """Settings of the benchmark."""

    sizes: tuple[SizeName, ...] = ("halfcheetah", "game", "small")
    """Which sizes."""
    seeds: tuple[int, ...] = (1, 4, 16)
    """Numbers of seeds, in rising order."""
    fit_steps: int = 10
    """Gradient steps in each call of the fit."""
    repeats: int = 5
    """Timed calls of each program, or as many as fit in the limit; at least 1."""
    limit: float = 300.0
    """Longest time for all calls of a cell, in seconds (of the processor's time on a CPU)."""
    pgd: Path | None = None
    """A checkout of EmptyJackson/policy-guided-diffusion."""
    out: Path = Path("results/benchmarks/diffusion.csv")
    """Table to write."""


class Size(NamedTuple):
    """What is diffused, and by what."""

    preset: Preset
    team: Team
    base: OfflineLearner
    layout: Layout
    data: DiffusedData
    horizon: int


class Program(NamedTuple):
    """What is timed: `function(key, policy, params, data)` of one seed, and what one call makes."""

    function: Callable[..., Any]
    init: Callable[[jax.Array], Any]  # a seed's key -> params, those of the denoiser
    unit: str
    per_call: int
    evaluations: int  # of the network for one trajectory
    mflop: float  # of one such, by XLA's count


class QuickFit(Generator):
    """The fit with one validation, as a long one has next to none."""

    @property
    def curve_shape(self) -> tuple[int, int]:
        return 1, 2


# --- Sizes ---


def make_size(name: SizeName) -> Size:
    env = TwinPeaks() if name == "game" else envs_jax.make("mamujoco/halfcheetah_2x3")
    team = Team.of(env)
    if isinstance(env, PolynomialGame):
        preset = polynomial_game(env, "policy")["paper"]
        base = AnalyticMADDPG(team, lambda actions: payoff(env, actions[..., 0]), preset.learning.initial)
        layout, data = diffuse(preset.game.dataset(env), team, 1)
        return Size(preset, team, base, layout, data, 1)
    preset = robot(env, None, "policy")["small" if name == "small" else "paper"]
    layout, horizon = Layout.of(team), preset.offline.horizon
    rows = np.random.default_rng(0).normal(size=(20_000, layout.num_channels)).clip(-1, 1)
    rows[:, -1] = 0.0  # HalfCheetah never ends an episode.
    starts = np.arange(len(rows) - horizon)
    data = diffused_data(rows, starts[:-1000], starts[-1000:], preset.generator.normaliser, preset.generator.knots)
    return Size(preset, team, make_base("maddpg_bc", team, preset.policy, preset.critic), layout, data, horizon)


def make_generator(size: Size, kind: type[Generator] = Generator, **config: Any) -> Generator:
    preset = size.preset
    settings = replace(preset.generator, **config)
    return kind(size.layout, size.data.normaliser.varying, size.horizon, settings, preset.unet, preset.edm)


def network_mflop(apply: Callable[..., Any], *args: Any) -> float:
    """Millions of operations of one call, as XLA counts them before it optimises."""
    return (jax.jit(apply).lower(*args).cost_analysis() or {}).get("flops", float("nan")) / 1e6


# --- Programs ---


def our_programs(size: Size, fit_steps: int) -> dict[str, Program]:
    fitted, generator = make_generator(size, QuickFit, fit_steps=fit_steps), make_generator(size)
    preset, base = size.preset, size.base
    num = preset.coda.num_samples
    x = jnp.zeros((1, size.horizon, len(generator.varying)))
    mflop = network_mflop(generator.network.apply, generator.init(jax.random.key(0)), x, jnp.zeros(()))

    def sample(key: jax.Array, policy: Any, params: Any, data: DiffusedData) -> jax.Array:
        act = jax.vmap(lambda obs: base.actions(policy, obs))
        score = guidance.unit_variance(act)
        return generator.sample(params, key, num, data.normaliser, score=score, guidance_scale=SCALE)

    def fit(key: jax.Array, policy: Any, params: Any, data: DiffusedData) -> Any:
        return fitted.fit(key, preset.fit, data)

    return {
        "fit": Program(fit, lambda key: key, "updates", fit_steps, 0, mflop),
        "sample": Program(sample, generator.init, "trajectories", num, preset.edm.evaluations, mflop),
    }


class Normal(NamedTuple):
    """The log density of a normal, which is all that policy-guided diffusion's sampler asks of distrax."""

    mean: jax.Array
    std: float

    def log_prob(self, x: jax.Array) -> jax.Array:
        return jax.scipy.stats.norm.logpdf(x, self.mean, self.std)


def load_pgd(path: Path) -> tuple[ModuleType, ModuleType]:
    """`diffusion/edm.py` and `models/diffusion.py` of a checkout. Of what they import, gym and wandb are not used by
    the sampler, and distrax for a normal alone; where these do not import, ours stand in."""
    files = [path / name for name in ("diffusion/edm.py", "models/diffusion.py", "util/__init__.py")]
    for file in files:
        if not file.is_file():
            raise SystemExit(
                f"--pgd {path}: {file} is not there; give a checkout of EmptyJackson/policy-guided-diffusion"
            )
    stand_ins = {"gym": {"spaces": SimpleNamespace(Dict=dict)}, "wandb": {}, "distrax": {"Normal": Normal}}
    for name, content in stand_ins.items():
        try:
            __import__(name)
        except Exception:  # Old ones fail with all sorts of errors beside a new JAX.
            sys.modules[name] = ModuleType(name)
            vars(sys.modules[name]).update(content)
    sys.path.insert(0, str(path.resolve()))  # For its package `util`.
    try:
        return load_file("pgd_edm", files[0]), load_file("pgd_models", files[1])
    except Exception as error:
        raise SystemExit(f"--pgd {path}: does not import: {type(error).__name__}: {error}") from None
    finally:
        sys.path.pop(0)


def pgd_programs(size: Size, edm: ModuleType, models: ModuleType) -> dict[str, Program]:
    """Policy-guided diffusion's sampler with our network and with its own, for the same policies."""
    preset, base, team, layout = size.preset, size.base, size.team, size.layout
    config, num = preset.edm, preset.coda.num_samples
    state_size, obs_size, action_size = layout.sizes[0], sum(layout.sizes[:2]), layout.sizes[2]
    channels = layout.num_channels
    hyperparameters = edm.DenoiserHyperparams(
        p_mean=config.sigma_log_mean, p_std=config.sigma_log_std, sigma_data=1.0, sigma_min=config.sigma_min,
        sigma_max=config.sigma_max, rho=config.rho, diffusion_timesteps=config.num_steps, s_churn=config.churn,
    )  # fmt: skip
    stats = {
        name: {"mean": jnp.zeros(width), "std": jnp.ones(width)}
        for name, width in (("obs", obs_size), ("action", action_size), ("reward", 1), ("done", 1))
    }

    def agent(policy: Any, obs: jax.Array) -> Any:  # As it asks a policy: obs [H, O] -> a distribution over [H, A].
        own = obs[:, state_size:].reshape(-1, team.num_agents, team.obs_size)
        action = base.actions(policy, own).reshape(-1, action_size)
        return SimpleNamespace(sample=lambda seed: action)

    def program(apply: Callable[..., Any], init: Callable[[jax.Array], Any], mflop: float) -> Program:
        def sample(key: jax.Array, policy: Any, params: Any, data: DiffusedData) -> Any:
            def one(key: jax.Array) -> Any:
                return edm.sample_trajectory(
                    key, SimpleNamespace(apply_fn=apply, params=params), size.horizon, obs_size, action_size, stats,
                    hyperparameters, policy_guidance_coeff=SCALE, policy_guidance_cosine_coeff=0.3,
                    normalize_action_guidance=True, denoised_guidance=True, det_guidance=True,
                    agent_apply_fn=agent, agent_params=policy,
                )  # fmt: skip

            return jax.vmap(one)(jax.random.split(key, num))

        return Program(sample, init, "trajectories", num, 3 * config.num_steps, mflop)

    ours = TemporalUNet(preset.unet, size.horizon)

    def init_ours(key: jax.Array) -> Any:
        return init_unet(ours, key, channels)

    x, noise = jnp.zeros((size.horizon, channels)), jnp.zeros(())
    wanted = network_mflop(ours.apply, init_ours(jax.random.key(0)), x[None], noise)
    widths = {}
    for width in range(16, 129, 8):  # Its groups of the normalisation and its embedding ask for multiples of 8 from 16.
        net = models.UNet(width, preset.unet.levels)
        params = jax.eval_shape(net.init, jax.random.key(0), x, noise)
        widths[width] = network_mflop(net.apply, params, x, noise)
    width = min(widths, key=lambda w: abs(np.log(widths[w] / wanted)))
    net = models.UNet(width, preset.unet.levels)
    return {
        "pgd, our network": program(lambda p, x, t: ours.apply(p, x[None], t)[0], init_ours, wanted),
        f"pgd, its network, width {width}": program(net.apply, lambda key: net.init(key, x, noise), widths[width]),
    }


# --- Measuring ---


def resident_bytes(field: str) -> int:
    """`VmRSS` or `VmHWM` of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of a call: by the clock, and of this process."""
    clock, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(call())
    return time.perf_counter() - clock, time.process_time() - cpu


def cost(seconds: tuple[float, float]) -> float:
    """Those that the limit is about."""
    return seconds[jax.default_backend() == "cpu"]


def first_call(call: Callable[[], Any]) -> tuple[int | None, tuple[float, float]]:
    """Bytes by which memory rises in a call, None where that cannot be told, and its seconds."""
    gc.collect()
    device = jax.devices()[0]
    stats = device.memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        seconds = timed(call)
        rise = device.memory_stats()["peak_bytes_in_use"] - max(stats["peak_bytes_in_use"], stats["bytes_in_use"])
        return rise or None, seconds  # None: an earlier program needed more.
    try:
        ctypes.CDLL(None).malloc_trim(0)  # What is free but still held would hide what is taken.
        Path("/proc/self/clear_refs").write_text("5")
    except (AttributeError, OSError):
        return None, timed(call)
    before = resident_bytes("VmRSS")
    seconds = timed(call)
    return resident_bytes("VmHWM") - before, seconds


def measure(
    programs: dict[str, Program], size: Size, num_seeds: int, args: Args, known: dict[str, float]
) -> list[dict]:
    """A row for each program. known: seconds of a call per seed, which is added to."""
    rows, ready = {}, {}
    spent: dict[str, list[tuple[float, float]]] = {}
    keys, base = seed_keys(0, num_seeds), size.base
    policies = jax.jit(jax.vmap(lambda key: base.policy(base.init(key, size.preset.hp))))(keys)
    for name, program in programs.items():
        row = {"program": name, "seeds": num_seeds, "unit": program.unit, "network_mflop": round(program.mflop, 3)}
        row |= {"evaluations": program.evaluations or ""}
        names = ("per_s", "per_cpu_s", "seconds", "cpu_seconds", "min_seconds", "max_seconds", "repeats", "compile_s")
        rows[name] = row | dict.fromkeys((*names, "estimated_mib", "measured_mib", "note"), "")
        expected = known.get(name, 0.0) * num_seeds
        if expected > args.limit:
            rows[name]["note"] = f"left out: about {expected:.0f} s a call"
            continue
        arguments = (keys, policies, jax.jit(jax.vmap(program.init))(keys), size.data)
        compiled = compile_once(jax.vmap(program.function, (0, 0, 0, None)), *arguments)
        call = lambda c=compiled, a=arguments: c.call(*a)  # noqa: E731
        rise, first = first_call(call)
        analysis = compiled.call.memory_analysis()  # type: ignore[attr-defined]
        estimate = analysis.temp_size_in_bytes + analysis.output_size_in_bytes if analysis else None
        rows[name] |= {
            "compile_s": round(compiled.compile_seconds, 2),
            "estimated_mib": "" if estimate is None else round(estimate / 2**20, 1),
            "measured_mib": "" if rise is None else round(rise / 2**20, 1),
        }
        spent[name] = [first] if first[0] > LONG_CALL else []
        ready[name] = (call, int(np.clip(args.limit / cost(first), 1, args.repeats)))
    for _ in range(args.repeats):  # In turn, so that a slow moment of the machine hits all alike.
        for name, (call, repeats) in ready.items():
            if len(spent[name]) < repeats:
                spent[name].append(timed(call))
    for name, seconds in spent.items():
        clock, cpu = (statistics.median(s) for s in zip(*seconds, strict=True))
        known[name], made = cost((clock, cpu)) / num_seeds, num_seeds * programs[name].per_call
        rows[name] |= {
            "per_s": round(made / clock, 2),
            "per_cpu_s": round(made / cpu, 2),
            "seconds": round(clock, 4),
            "cpu_seconds": round(cpu, 4),
            "min_seconds": round(min(s for s, _ in seconds), 4),
            "max_seconds": round(max(s for s, _ in seconds), 4),
            "repeats": len(seconds),
        }
    return list(rows.values())


def compare(args: Args) -> Iterator[dict[str, Any]]:
    """A row per size, program and number of seeds."""
    pgd = None if args.pgd is None else load_pgd(args.pgd)
    for name in args.sizes:
        size, known = make_size(name), {}
        programs = our_programs(size, args.fit_steps)
        if pgd is not None and size.horizon > 1:  # Of one step nothing is left: it drops the last of each trajectory.
            programs |= pgd_programs(size, *pgd)
        preset = size.preset
        head = {
            "size": name,
            "horizon": size.horizon,
            "channels": len(size.data.normaliser.varying),
            "fit_batch": preset.generator.fit_batch_size,
            "samples": preset.coda.num_samples,
            "sampler_steps": preset.edm.num_steps,
        }
        for num_seeds in args.seeds:
            for row in measure(programs, size, num_seeds, args, known):
                yield head | row


if __name__ == "__main__":
    args = tyro.cli(Args, description=__doc__)
    write_table(args.out, compare(args), " ".join(["python", *sys.argv]))
