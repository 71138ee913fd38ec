"""CODA on HalfCheetah 2x3 with learned critics: `make reproduce-coda-mamujoco`.

    python results/coda/mamujoco.py poor medium good replay      datasets of `make reproduce-mamujoco-data`
    python results/coda/mamujoco.py --only-draw

For each dataset, one denoiser is fitted and kept, longer than the preset would for each seed; every variant then learns
with it, with the same seeds, from the same starts, for the same number of gradient steps. Variants are the modes (none,
unconditional, policy), what might repair guided samples (rewards by a model or by the simulator, imitation of real
actions alone, a larger share or scale), and other learners with and without CODA. What a variant has left is not run
again.

Written: `mamujoco.csv`, a row per dataset, variant, seed and evaluation; `mamujoco_summary.csv`; figures; and
`mamujoco_samples.csv`, how true generated segments are against the guidance scale: each transition is repeated in the
simulator.
"""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from algos.tasks_coda import Args as CodaArgs
from algos.tasks_coda import build, presets
from algos.tasks_offline import LEVELS
from covey.diffusion import Coda, Fields, diagnostics
from covey.experiment import Program, seed_keys
from covey.experiment.plot import COLOURS
from covey.experiment.statistics import bootstrap_interval, iqm
from covey.learners.offline import Segments, gather
from results.coda.study import figure, write

HERE = Path(__file__).parent
SEEDS = 5
FIT_STEPS, FIT_BATCH = 20_000, 128
KEPT = Path("runs/reproduce/coda-mamujoco")
SCALES = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Args:
    """Settings."""

    levels: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which datasets: poor, medium, good, replay."""
    only: tuple[str, ...] = ()
    """Variants to run; empty for all."""
    only_draw: bool = False
    """Draw what is there and run nothing."""


class Fitted(Coda):
    """CODA whose denoiser and model of rewards are there already."""

    prepare = None  # type: ignore[assignment]


# --- Variants ---


def _changed(args: CodaArgs, **changes: Any) -> CodaArgs:
    """Settings by the names of their flags."""
    for part in ("learning", "critic", "coda", "numbers", "model"):
        own = getattr(args, part)
        mine = {k: v for k, v in changes.items() if k in own.__dataclass_fields__}
        args = replace(args, **{part: replace(own, **mine)})
    return args


GUIDED = {"mode": "policy"}
MODEL_BASED = {"rollouts": 256, "model_steps": 100, "model_members": 4, "model_elites": 3, "warmup_updates": 1}
VARIANTS: dict[str, dict[str, Any]] = {
    "none": {"mode": "none"},
    "unconditional": {"mode": "unconditional"},
    "policy": GUIDED,
    "policy, rewards by model": GUIDED | {"relabel": "model"},
    "policy, BC on real": GUIDED | {"bc_on": "real"},
    "policy, both": GUIDED | {"relabel": "model", "bc_on": "real"},
    "policy, both, distrust 1": GUIDED | {"relabel": "model", "bc_on": "real", "distrust": 1.0},
    "policy, true rewards, BC on real": GUIDED | {"relabel": "true", "bc_on": "real"},
    "policy, scale 3": GUIDED | {"guidance_scale": 3.0},
    "policy, share 15/16": GUIDED | {"mix": 0.9375},
}
for base in ("iql", "td3_bc", "maddpg_cql", "omiga"):
    VARIANTS |= {f"{base}: none": {"base": base, "mode": "none"}, f"{base}: policy": {"base": base} | GUIDED}
VARIANTS |= {
    "model-based: none": {"mode": "none"} | MODEL_BASED,
    "model-based: policy": GUIDED | MODEL_BASED,
}


def settings(level: str) -> CodaArgs:
    """The small preset with 5 seeds."""
    args = presets("policy")[f"halfcheetah_2x3-{level}"]["small"]
    model = replace(args.model, model_hidden_sizes=(128, 128), rollout_length=5)
    return replace(args, run=replace(args.run, num_seeds=SEEDS), model=model)


# --- The simulator as a judge ---


def simulate(env: Any, state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The next state [..., S] and the reward [...] of HalfCheetah after joint actions [..., N, A] at [..., S].

    A global state is all positions but the first, which moves nothing, and all velocities.
    """
    lead = state.shape[:-1]
    start = env.init(jax.random.key(0))

    def one(state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        positions = start.qpos.shape[0] - 1
        qpos = jnp.concatenate([jnp.zeros(1), state[:positions]])
        at = start.replace(qpos=qpos, qvel=state[positions:])
        after, outcome = env.advance(jax.random.key(0), at, action)
        return env.global_state(after), jnp.mean(outcome.reward)

    after, reward = jax.vmap(one)(state.reshape(-1, state.shape[-1]), action.reshape(-1, *action.shape[-2:]))
    return after.reshape(state.shape), reward.reshape(lead)


def true_reward(env: Any, segments: Segments) -> jax.Array:
    """[B, L, N] of segments."""
    _, reward = simulate(env, segments.state, segments.action)
    return jnp.broadcast_to(reward[..., None], segments.reward.shape)


# --- Running ---


def fitted(level: str) -> tuple[CodaArgs, Any, Any]:
    """Settings, data, and for all seeds the denoiser, its losses, and the model of rewards."""
    args = _changed(settings(level), mode="policy", relabel="model", relabel_steps=4000)
    generator = replace(args.generator, fit_steps=FIT_STEPS, fit_batch_size=FIT_BATCH)
    args = replace(args, generator=generator, fit=replace(args.fit, ema_decay=0.999))
    job = build(args)
    learner, data = job.learner, job.data
    assert isinstance(learner, Coda)
    start = learner.init(jax.random.key(0), job.hp)
    path = KEPT / f"{level}.npz"
    _, tree = jax.tree.flatten((start.denoiser, start.fit_curve, start.reward_model))
    if not path.exists():
        began = time.perf_counter()
        after = jax.block_until_ready(jax.jit(learner.prepare)(start, data))
        found = jax.tree.leaves((after.denoiser, after.fit_curve, after.reward_model))
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, *[np.asarray(x) for x in found])
        print(f"{level}: fit in {time.perf_counter() - began:.0f} s", flush=True)
        print(np.asarray(after.fit_curve)[:, 1], np.asarray(after.reward_model.error), flush=True)
    with np.load(path) as stored:
        leaves = [jnp.stack([stored[name]] * SEEDS) for name in stored.files]
    return args, data, jax.tree.unflatten(tree, leaves)


def run(level: str, variant: str, base: CodaArgs, kept: Any) -> list[dict[str, Any]]:
    """A row per seed and evaluation."""
    args = _changed(replace(base, coda=replace(base.coda, relabel="none")), **VARIANTS[variant])
    relabel, mode = args.coda.relabel, args.coda.mode
    if relabel == "true":
        args = replace(args, coda=replace(args.coda, relabel="none"))
    job = build(args)
    made = {f: getattr(job.learner, f) for f in Coda.__dataclass_fields__}
    if relabel == "true":
        made |= {"reward": partial(true_reward, args.env), "config": replace(args.coda, relabel="true")}
    learner = Fitted(**made)
    updates = args.run.num_updates
    assert updates is not None
    program = Program(learner, updates, args.run.num_evaluations)
    state = program.init(seed_keys(0, SEEDS), job.hp)
    if mode != "none":
        denoiser, curve, model = kept
        changes = {"denoiser": denoiser, "fit_curve": curve} | ({"reward_model": model} if relabel == "model" else {})
        state = state._replace(carries=replace(state.carries, **changes))
    compiled = jax.jit(partial(program.advance, length=updates)).lower(state, jnp.int32(updates), job.data).compile()
    began = time.perf_counter()
    state, metrics = jax.block_until_ready(compiled(state, jnp.int32(updates), job.data))
    seconds = time.perf_counter() - began
    found = {k: np.asarray(v) for k, v in metrics.items()}
    rows = []
    for u in np.flatnonzero(np.isfinite(found["eval/episode_return"][:, 0, 0])):
        for seed in range(SEEDS):
            row = {
                "dataset": level,
                "variant": variant,
                "seed": seed,
                "gradient_steps": (u + 1) * args.offline.gradient_steps,
            }
            row["return"] = float(found["eval/episode_return"][u, seed, 0])
            for name in ("policy_distance", "reward_disagreement", "reward_error", "done_rate", "distance", "td_error"):
                value = found.get(f"train/{name}")
                row[name] = "" if value is None else float(value[u, seed].mean())
            rows.append(row | {"run_s": round(seconds, 1)})
    final = found["eval/episode_return"][-1, :, 0]
    print(f"{level}, {variant}: {final.round(0)}, {seconds:.0f} s", flush=True)
    if variant == "none":
        np.savez(
            KEPT / f"{level}-policy.npz", *[np.asarray(x) for x in jax.tree.leaves(state.carries.offline.base.params)]
        )
    return rows


def samples(level: str, args: CodaArgs, data: Any, kept: Any) -> list[dict[str, Any]]:
    """How close to the policy, and how true, 128 segments of each seed are, for fresh policies and those that mode
    `none` ended with; beside segments of the dataset itself."""
    job = build(args)
    learner = job.learner
    assert isinstance(learner, Coda)
    start = jax.vmap(learner.init, in_axes=(0, None))(seed_keys(0, SEEDS), job.hp)
    start = replace(start, **dict(zip(("denoiser", "fit_curve", "reward_model"), kept, strict=True)))
    _, tree = jax.tree.flatten(start.offline.base.params)
    with np.load(KEPT / f"{level}-policy.npz") as stored:
        params = jax.tree.unflatten(tree, [jnp.asarray(stored[name]) for name in stored.files])
    learned = replace(start.offline, base=replace(start.offline.base, params=params))
    trained = replace(start, offline=learned)
    dataset = data.source.dataset
    rows = np.random.default_rng(0).choice(np.asarray(data.source.rows), 4096, replace=False)
    state = np.asarray(dataset.state)[rows]
    action = np.asarray(dataset.action)[rows]
    spread = jnp.asarray(np.concatenate([state, action.reshape(len(rows), -1)], axis=1).std(axis=0))
    support = jnp.asarray(np.concatenate([state, action.reshape(len(rows), -1)], axis=1))

    def judge(fields: Fields, acted: jax.Array, model_reward: jax.Array) -> dict[str, jax.Array]:
        after, reward = simulate(args.env, fields.state, fields.action)
        size = fields.state.shape[-1]
        error = (fields.state[:, 1:] - after[:, :-1]) / spread[:size]
        pairs = jnp.concatenate([fields.state, fields.action.reshape(*fields.done.shape, -1)], axis=-1)
        return {
            "policy_distance": diagnostics.policy_distance(acted, fields.action),
            "log_prob": diagnostics.action_log_prob(acted, fields.action),
            "dynamics_error": jnp.sqrt(jnp.mean(jnp.square(error))),
            "dynamics_error_median": jnp.median(jnp.abs(error)),
            "reward_error": diagnostics.reward_error(fields.reward, reward[..., None]),
            "model_reward_error": diagnostics.reward_error(model_reward, reward[..., None]),
            "support_distance": jnp.mean(
                diagnostics.support_distance(pairs[:, ::5].reshape(-1, pairs.shape[-1])[:256], support, spread)
            ),
            "done_rate": diagnostics.done_rate(fields.done),
        }

    def generated(carry: Any, scale: jax.Array) -> dict[str, jax.Array]:
        carry = replace(carry, coda=replace(carry.coda, guidance_scale=scale))
        fields = learner.generate(carry, data, carry.key, 128)
        reward = learner.rewards(carry, fields.segments())["model"][:, :-1]
        return judge(fields, learner.act(carry, fields.obs), reward)

    def recorded(carry: Any) -> dict[str, jax.Array]:
        pick = jax.random.randint(carry.key, (128,), 0, data.source.starts.shape[0])
        seen = gather(data.source, jnp.asarray(data.source.starts)[pick], args.offline.horizon)
        fields = Fields(*(x[:, :-1] for x in seen[:4]), done=seen.terminated[:, :-1].astype(jnp.float32))  # type: ignore[arg-type]
        return judge(fields, learner.act(carry, fields.obs), learner.rewards(carry, seen)["model"][:, :-1])

    sweep = jax.jit(jax.vmap(lambda c: jax.lax.map(partial(generated, c), jnp.asarray(SCALES))))
    real = jax.jit(jax.vmap(recorded))
    table = []
    for name, carry in (("fresh", start), ("trained", trained)):
        found, control = (jax.tree.map(np.asarray, f(carry)) for f in (sweep, real))
        for seed in range(SEEDS):
            common = {"dataset": level, "policy": name, "seed": seed}
            table.append(common | {"guidance_scale": "data"} | {k: float(v[seed]) for k, v in control.items()})
            for i, scale in enumerate(SCALES):
                table.append(common | {"guidance_scale": scale} | {k: float(v[seed, i]) for k, v in found.items()})
    return table


# --- Tables and figures ---


def read(name: str) -> list[dict[str, Any]]:
    """A table of this folder, or nothing."""
    path = HERE / name
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def summarise() -> None:
    """Returns over the last third of the evaluations, per dataset and variant."""
    rows = read("mamujoco.csv")
    if not rows:
        return
    last = max(int(row["gradient_steps"]) for row in rows)
    table = []
    for level in (level for level in LEVELS if any(row["dataset"] == level for row in rows)):
        for variant in VARIANTS:
            mine = [r for r in rows if (r["dataset"], r["variant"]) == (level, variant)]
            if not mine:
                continue
            late = [r for r in mine if int(r["gradient_steps"]) > last * 2 / 3]
            values = np.array(
                [np.mean([float(r["return"]) for r in late if int(r["seed"]) == s]) for s in range(SEEDS)]
            )
            low, high = bootstrap_interval(values)
            table.append(
                {"dataset": level, "variant": variant, "seeds": SEEDS, "mean": values.mean(),
                 "standard_error": values.std(ddof=1) / SEEDS**0.5, "iqm": float(iqm(values)), "low": float(low),
                 "high": float(high), "run_s": float(mine[0]["run_s"])}
            )  # fmt: skip
    write("mamujoco_summary.csv", table)
    _draw_returns(rows, table)
    _draw_samples(read("mamujoco_samples.csv"))


def _draw_returns(rows: list[dict[str, Any]], table: list[dict[str, Any]]) -> None:
    """Intervals per variant; a dot for each seed."""
    levels = list(dict.fromkeys(row["dataset"] for row in table))
    drawn, [axes] = figure(len(levels), size=(5.2, 0.32 * len(VARIANTS) + 0.9))
    order = [v for v in VARIANTS if any(row["variant"] == v for row in table)]
    for ax, level in zip(axes, levels, strict=True):
        for line in (row for row in table if row["dataset"] == level):
            y = -order.index(line["variant"])
            colour = COLOURS[0] if "policy" in line["variant"] else "black"
            ax.plot([line["low"], line["high"]], [y, y], color=colour, linewidth=3, alpha=0.4)
            ax.plot(line["iqm"], y, "o", color=colour)
        ax.axvline(
            next(r["iqm"] for r in table if (r["dataset"], r["variant"]) == (level, "none")),
            color="grey",
            linestyle=":",
        )
        ax.set(
            yticks=[-i for i in range(len(order))],
            yticklabels=order,
            ylim=(0.5 - len(order), 0.5),
            title=level,
            xlabel="return, IQM and 95 % interval",
        )
    drawn.savefig(HERE / "mamujoco.png")


def _draw_samples(rows: list[dict[str, Any]]) -> None:
    """What guided segments are like, against the scale; the dotted line is the dataset's own segments."""
    if not rows:
        return
    panels = {
        "policy_distance": "distance to the policy", "dynamics_error": "dynamics error (deviations)",
        "reward_error": "reward error (dashed: by the model)", "support_distance": "distance to the data (deviations)",
    }  # fmt: skip
    drawn, [axes] = figure(len(panels), size=(3.8, 3.4))
    pairs = list(dict.fromkeys((row["dataset"], row["policy"]) for row in rows))
    for ax, (key, label) in zip(axes, panels.items(), strict=True):
        for k, pair in enumerate(pairs):
            mine = [row for row in rows if (row["dataset"], row["policy"]) == pair]

            def mean(key: str, scale: str, mine: list[dict[str, Any]] = mine) -> float:
                return float(np.mean([float(r[key]) for r in mine if r["guidance_scale"] == scale]))

            names = [f"{s:.6g}" if s else "0" for s in SCALES]
            x = [SCALES[1] / 3, *SCALES[1:]]
            ax.plot(x, [mean(key, s) for s in names], "o-", color=COLOURS[k], label=", ".join(pair), markersize=3)
            if key == "reward_error":
                ax.plot(x, [mean("model_reward_error", s) for s in names], "--", color=COLOURS[k])
            ax.axhline(mean(key, "data"), color=COLOURS[k], linestyle=":", linewidth=0.8)
        ax.set(xscale="log", xlabel="guidance scale (leftmost: 0)", title=label)
    axes[0].legend(fontsize=7)
    drawn.savefig(HERE / "mamujoco_samples.png")


def main(options: Args) -> None:
    for level in () if options.only_draw else options.levels:
        args, data, kept = fitted(level)
        for variant in options.only or VARIANTS:
            rows = read("mamujoco.csv")
            if not any((row["dataset"], row["variant"]) == (level, variant) for row in rows):
                write("mamujoco.csv", [*read("mamujoco.csv"), *run(level, variant, args, kept)])
                summarise()
        table = read("mamujoco_samples.csv")
        if not any(row["dataset"] == level for row in table) and (KEPT / f"{level}-policy.npz").exists():
            write("mamujoco_samples.csv", [*table, *samples(level, args, data, kept)])
    summarise()


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
