"""CODA on polynomial games, and its generator on toys whose truth is known: `make reproduce-coda`.

    python results/coda/study.py games|closed|bases|steering|size

games     each mode on Multiplication and Twin Peaks, 16 seeds: `games.csv`, where joint policies go over the payoff
          (`games.png`, `curves.png`), and generated samples as they follow the policy, or not (`follow.gif`)
closed    fixed points beside their closed forms, other coefficients, other data, three players: `closed.csv`
bases     CODA around learners that know no payoff, with generated and with relabelled rewards, 5 seeds: `bases.csv`
steering  guided segments of a linear system with H = 20, N = 2, A = 3 against the guidance scale: log-probability under
          an untrained and a trained policy, consistency with the true dynamics and rewards, distance to the data, with
          and without churn (`steering.csv`, `steering.png`); and single joint actions of Twin Peaks
          (`steering_actions.csv`, `steering_actions.png`)
size      the guidance scale that steers best against the number of guided actions, with an exact denoiser
          (`size.csv`, `size.png`)

Times in the tables are wall and processor seconds on the machine that ran it, compilation included and nothing cached.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from algos.tasks_coda import Args as CodaArgs
from algos.tasks_coda import build, presets
from algos.tasks_offline import GameData, Learning
from covey.diffusion import (
    Coda,
    CodaHyperparameters,
    EDMConfig,
    FitHyperparameters,
    Generator,
    GeneratorConfig,
    Layout,
    UNetConfig,
    diagnostics,
    edm,
    from_arrays,
    guidance,
)
from covey.experiment import Program, make_train, seed_keys
from covey.experiment.plot import COLOURS
from covey.experiment.statistics import bootstrap_interval, iqm
from covey.experiment.video import save_gif
from covey.learners.offline import AnalyticMADDPG, OfflineHyperparameters, Team, WorldModelConfig
from envs_jax.games import polynomial
from envs_jax.games.polynomial import Multiplication, TwinPeaks

HERE = Path(__file__).parent
MODES = ("none", "unconditional", "q", "policy", "cfg")
SUCCESS = {"multiplication": 0.99, "twin-peaks": 0.55}
SEEDS, UPDATES, EVERY = 16, 150, 5


@dataclass(frozen=True)
class Args:
    """Settings."""

    study: tyro.conf.Positional[Literal["games", "closed", "bases", "steering", "size"]]
    """Which study."""


def write(name: str, rows: list[dict[str, Any]]) -> None:
    """A table in this folder."""
    shown = [{k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    with (HERE / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(shown[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(shown)


def figure(columns: int, rows: int = 1, size: tuple[float, float] = (4.2, 3.4)) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(size[0] * columns, size[1] * rows), dpi=100, layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn, drawn.subplots(rows, columns, squeeze=False)


# --- Games ---


def games() -> None:
    """All modes on both games; the samples of one seed in between."""
    rows, summary, paths, samples = [], [], {}, {}
    for game, threshold in SUCCESS.items():
        for mode in MODES:
            args = presets(mode)[game]["small"]  # type: ignore[arg-type]
            learner, hp, data = build(args)
            assert isinstance(learner, Coda)
            program = Program(learner, UPDATES, UPDATES)
            wall, cpu = time.perf_counter(), time.process_time()
            state = jax.jit(program.init)(seed_keys(0, SEEDS), hp)
            advance = jax.jit(partial(program.advance, length=EVERY)).lower(state, jnp.int32(EVERY), data).compile()
            compiled = time.perf_counter() - wall
            chunks, taken = [], []
            for _ in range(0, UPDATES, EVERY):
                state, metrics = advance(state, jnp.int32(EVERY), data)
                chunks.append(jax.tree.map(np.asarray, metrics))
                taken.append(jax.tree.map(lambda x: x[0], state.carries))
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            metrics = jax.tree.map(lambda *x: np.concatenate(x), *chunks)
            theta, payoff = metrics["train/theta"], metrics["eval/episode_return"][..., 0]  # [U, S, N], [U, S]
            paths[game, mode] = np.concatenate([np.broadcast_to(args.learning.initial, (1, SEEDS, 2)), theta])
            rows += list(_rows(game, mode, metrics))
            low, high = bootstrap_interval(payoff[-1])
            line = {"game": game, "mode": mode, "seeds": SEEDS, "optimum": polynomial.optimum(args.env).payoff}
            line |= {f"payoff_iqm_{u}": float(iqm(payoff[u - 1])) for u in (50, 100, 150)}
            line |= {"low_150": float(low), "high_150": float(high), "min_150": float(payoff[-1].min())}
            line |= {"success_150": int((payoff[-1] >= threshold).sum()), "threshold": threshold}
            line |= {"compile_s": compiled, "wall_s": wall, "processor_s": cpu}
            print(line, flush=True)
            summary.append(line)
            if game == "twin-peaks" and mode != "none":
                generate = jax.jit(partial(learner.generate, num=200))
                samples[mode] = [np.asarray(generate(c, data, jax.random.key(0)).action)[:, 0, :, 0] for c in taken]
    write("games.csv", rows)
    write("games_summary.csv", summary)
    _draw_games(paths)
    _draw_curves(rows)
    _film(paths, samples)


def _rows(game: str, mode: str, metrics: dict[str, np.ndarray]) -> Any:
    for seed in range(SEEDS):
        for update in range(EVERY, UPDATES + 1, EVERY):
            row: dict[str, Any] = {"game": game, "mode": mode, "seed": seed, "update": update}
            row |= {f"theta_{i}": float(metrics["train/theta"][update - 1, seed, i]) for i in (0, 1)}
            row["payoff"] = float(metrics["eval/episode_return"][update - 1, seed, 0])
            for name in ("policy_distance", "reward_error", "fit_validation_loss"):
                found = metrics.get(f"train/{name}")
                row[name] = "" if found is None else float(found[update - 1, seed])
            yield row


def _draw_games(paths: dict[tuple[str, str], np.ndarray]) -> None:
    """A panel for each game and mode: where the joint policies of all seeds went."""
    drawn, axes = figure(len(MODES), len(SUCCESS), (3.3, 3.3))
    for i, (game, threshold) in enumerate(SUCCESS.items()):
        env = presets("none")[game]["small"].env
        for j, mode in enumerate(MODES):
            ax, path = axes[i][j], paths[game, mode]
            _surface(ax, env)
            ax.plot(path[..., 0], path[..., 1], color="#e41a1c", linewidth=0.8, alpha=0.7)
            ax.plot(*path[-1].T, "X", color="#e41a1c", markeredgecolor="black", markersize=8, clip_on=False)
            ax.plot(*path[0, 0], "o", color="white", markeredgecolor="black", markersize=6)
            final = np.asarray(polynomial.payoff(env, jnp.asarray(path[-1])))[:, 0]
            ax.set_title(f"{mode}\n{(final >= threshold).sum()} of {SEEDS} reach {threshold}", fontsize=10)
        axes[i][0].set_ylabel(game)
    drawn.savefig(HERE / "games.png")


def _surface(ax: Any, env: Any) -> None:
    side = np.linspace(-1, 1, 121)
    joint = np.stack(np.meshgrid(side, side), axis=-1)
    surface = np.asarray(polynomial.payoff(env, jnp.asarray(joint)))[..., 0]
    ax.pcolormesh(side, side, surface, cmap="viridis", shading="gouraud", vmin=np.quantile(surface, 0.1))
    levels = np.unique(np.quantile(surface, np.linspace(0.05, 0.98, 12)))
    ax.contour(side, side, surface, levels=levels, colors="white", linewidths=0.5, alpha=0.5)
    x, y = polynomial.optimum(env).actions.T
    ax.plot(x, y, "*", color="white", markeredgecolor="black", markersize=13, linestyle="none", clip_on=False)
    ax.set(xlim=(-1, 1), ylim=(-1, 1), xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    ax.set_aspect("equal")


def _draw_curves(rows: list[dict[str, Any]]) -> None:
    drawn, axes = figure(2)
    for ax, (game, threshold) in zip(axes[0], SUCCESS.items(), strict=True):
        for mode, colour in zip(MODES, COLOURS, strict=False):
            found = [row for row in rows if row["game"] == game and row["mode"] == mode]
            updates = sorted({row["update"] for row in found})
            payoff = np.array([[r["payoff"] for r in found if r["update"] == u] for u in updates])  # [U, S]
            bounds = np.array([bootstrap_interval(p) for p in payoff])
            ax.plot(updates, [iqm(p) for p in payoff], color=colour, label=mode)
            ax.fill_between(updates, *bounds.T, color=colour, alpha=0.2, linewidth=0)
        ax.axhline(threshold, color="grey", linewidth=0.8, linestyle=":")
        ax.set(title=game, xlabel="updates", ylabel="payoff (IQM, 95 %)")
    axes[0][0].legend(fontsize=8)
    drawn.savefig(HERE / "curves.png")


def _film(paths: dict[tuple[str, str], np.ndarray], samples: dict[str, list[np.ndarray]]) -> None:
    """Samples of one seed in each mode as its joint policy moves, on Twin Peaks."""
    env, frames = presets("none")["twin-peaks"]["small"].env, []
    shown = [*range(0, 20), *range(20, UPDATES // EVERY, 2)]
    for k in [*shown, *[shown[-1]] * 6]:
        drawn, axes = figure(len(samples), 1, (2.6, 2.9))
        for ax, (mode, clouds) in zip(axes[0], samples.items(), strict=True):
            path = paths["twin-peaks", mode][: (k + 1) * EVERY + 1, 0]
            _surface(ax, env)
            ax.plot(*clouds[k].T, ".", color="#ff7f00", markersize=3, alpha=0.8)
            ax.plot(*path.T, color="#e41a1c", linewidth=1.2)
            ax.plot(*path[-1], "X", color="#e41a1c", markeredgecolor="black", markersize=10)
            ax.set_title(f"{mode}, update {(k + 1) * EVERY}", fontsize=9)
        drawn.canvas.draw()
        frames.append(np.asarray(drawn.canvas.buffer_rgba())[..., :3].copy())
    save_gif(HERE / "follow.gif", frames, fps=5)


# --- Closed forms ---


def closed() -> None:
    """Fixed points that are known, beside those that training reaches."""
    rows: list[dict[str, Any]] = []

    def add(case: str, quantity: str, exact: float, measured: float) -> None:
        exact, measured = float(exact), float(measured)
        error = abs(measured - exact) / (abs(exact) or 1.0)  # relative, or absolute beside an exact 0
        rows.append({"case": case, "quantity": quantity, "exact": exact, "measured": measured, "error": error})
        print(rows[-1], flush=True)

    # The dataset alone on Twin Peaks: x* = C m_y / (2 A + 2 B E[y^2]), mean of the last half of 2000 updates.
    for a, b, c in ((1.0, 4.0, 5.0), (0.5, 2.0, 3.0)):
        args = replace(presets("none")["twin-peaks"]["small"], env=TwinPeaks(a=a, b=b, c=c))
        train = jax.jit(make_train(build(args).learner, 2000, 1))
        for mean, std in (((0.3, 0.3), 0.2), ((0.5, 0.2), 0.3), ((-0.4, 0.6), 0.5)):
            config = GameData("gaussian", data_mean=mean, data_std=std)
            learner, hp, data = build(replace(args, game=config))
            _, metrics = train(seed_keys(0, SEEDS), hp, data)
            found = np.asarray(metrics["train/theta"])[1000:].mean(axis=(0, 1))
            actions = np.asarray(data.source.dataset.action)[data.source.starts, :, 0].astype(np.float64)
            m, square = actions.mean(axis=0), np.square(actions).mean(axis=0)
            for i in (0, 1):
                exact = c * m[1 - i] / (2 * a + 2 * b * square[1 - i])
                add(f"none, twin peaks A={a} B={b} C={c}, data N({mean}, {std})", f"theta_{i}", exact, found[i])

    # An on-policy generator of spread sigma: sqrt((C - 2 A) / 2 B - sigma^2), by exact samples with noise.
    for sigma in (0.0, 0.1, 0.2, 0.3, 0.5):
        game = TwinPeaks()
        base = AnalyticMADDPG(Team.of(game), lambda a, game=game: polynomial.payoff(game, a[..., 0]), (0.5, 0.6))
        found = float(np.abs(_noisy(base, sigma)).mean())
        add(f"on-policy samples of spread {sigma}, twin peaks", "|theta|", float(np.sqrt(3 / 8 - sigma**2)), found)

    # CODA with a share alpha of generated data, the rest centred. Of samples that are the policy's actions:
    # alpha theta^2 = (C alpha - 2 A) / 2 B - (1 - alpha) E[y^2]. Of those that there are: the first case's form.
    args = presets("cfg")["twin-peaks"]["small"]
    learner, hp, data = build(args)
    assert isinstance(learner, Coda)
    shares = np.repeat([1.0, 0.9375, 0.8, 0.6], 4)
    hp = replace(hp, coda=replace(hp.coda, mix=1.0))  # checked as a number, then swept
    swept = jax.tree.map(lambda x: jnp.full(SEEDS, x, jnp.float32), hp)
    swept = replace(swept, coda=replace(swept.coda, mix=jnp.asarray(shares, jnp.float32)))
    state, _ = jax.jit(make_train(learner, 200, 1))(seed_keys(0, SEEDS), swept, data)
    settled = jax.jit(jax.vmap(partial(_settled, learner), in_axes=(0, None)))(state.carries, data)
    theta, made, made_square = (np.asarray(x, np.float64) for x in settled)  # [S, N]
    actions = np.asarray(data.source.dataset.action)[data.source.starts, :, 0].astype(np.float64)
    mean, square = actions.mean(axis=0), np.square(actions).mean(axis=0)
    mix = shares[:, None]
    own = 5 * (mix * made + (1 - mix) * mean) / (2 + 8 * (mix * made_square + (1 - mix) * square))
    for share in np.unique(shares)[::-1]:
        perfect = np.sqrt(max((5 * share - 2) / 8 - (1 - share) * square.mean(), 0.0) / share)
        case, these = f"cfg, twin peaks, share {share} generated", shares == share
        measured = float(np.abs(theta[these]).mean())
        add(case, "|theta|, if samples were the policy's actions", float(perfect), measured)
        add(case, "|theta|, by samples' own mean and square", float(np.abs(own[these]).mean()), measured)
        spread = np.sqrt(made_square - np.square(made))[these].mean()
        print(f"samples lie {np.abs(made - theta)[these].mean():.4f} off the policy on average, spread {spread:.4f}")

    # CODA elsewhere: payoffs after 150 updates beside the optimum.
    twin, product = presets("policy")["twin-peaks"]["small"], presets("policy")["multiplication"]["small"]
    shifted = GameData("gaussian", data_mean=(0.1, -0.1), data_std=0.5)
    three = replace(
        product, env=Multiplication(num_agents=3), learning=Learning(base="analytic", initial=(-0.64, 0.65, 0.3))
    )
    cases: dict[str, CodaArgs] = {
        "policy, twin peaks A=0.5 B=2.0 C=3.0": replace(twin, env=TwinPeaks(a=0.5, b=2.0, c=3.0)),
        "policy, twin peaks, data N((0.1, -0.1), 0.5)": replace(twin, game=shifted),
        "policy, multiplication of three": three,
        "none, multiplication of three": replace(three, coda=replace(three.coda, mode="none")),
    }
    for case, args in cases.items():
        learner, hp, data = build(args)
        _, metrics = jax.jit(make_train(learner, UPDATES, 1))(seed_keys(0, SEEDS), hp, data)
        payoff = np.asarray(metrics["eval/episode_return"])[-1, :, 0]
        add(
            case,
            f"payoff, median of {SEEDS} (min {payoff.min():.3f})",
            polynomial.optimum(args.env).payoff,
            float(np.median(payoff)),
        )
    write("closed.csv", rows)


def _settled(learner: Coda, carry: Any, data: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Over 100 more updates: the mean policy, and the mean and square of the actions generated for it, [N] each."""

    def one(carry: Any, _: None) -> Any:
        acted = learner.generate(carry, data, jax.random.fold_in(carry.key, 1), 256).action[:, 0, :, 0]
        square = jnp.mean(jnp.square(acted), axis=0)
        carry, metrics = learner.update(carry, data)
        return carry, (metrics["theta"], jnp.mean(acted, axis=0), square)

    return jax.tree.map(partial(jnp.mean, axis=0), jax.lax.scan(one, carry, None, 100)[1])


def _noisy(base: AnalyticMADDPG, sigma: float) -> np.ndarray:
    """Joint actions that ascent ends at when others' actions are the policies' with noise; mean of the last half."""

    def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        noise = sigma * jax.random.normal(key, (256, 1, 2, 1))
        carry, metrics = base.learn(carry, SimpleNamespace(action=carry.params["actor"] + noise))  # type: ignore[arg-type]
        return carry, metrics["theta"]

    def run(key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 4000)
        return jnp.mean(jax.lax.scan(step, base.init(key, OfflineHyperparameters()), keys)[1][2000:], axis=0)

    return np.asarray(jax.jit(jax.vmap(run))(seed_keys(0, 4)))


# --- Other learners ---

BASES: dict[str, dict[str, Any]] = {
    "maddpg": {"base": "maddpg"},
    "maddpg_bc": {"base": "maddpg_bc"},
    "td3_bc": {"base": "td3_bc"},
    "iql": {"base": "iql"},
    "omiga": {"base": "omiga"},
    "maddpg, world model": {"base": "maddpg", "rollouts": 128},
}


def bases() -> None:
    """Learned critics and policies on 4000 uniform joint actions, 60 rounds of 40 gradient steps; 15 of 16 segments
    generated, if any. Policies start near 0, which is the saddle of both games."""
    rows, variants = [], (("none", "none"), ("policy", "none"), ("policy", "model"))
    for game in SUCCESS:
        for name, flags in BASES.items():
            for mode, relabel in variants:
                args = presets(mode)[game]["small"]  # type: ignore[arg-type]
                world = WorldModelConfig(
                    flags.get("rollouts", 0), 1, model_steps=20, warmup_updates=2, model_members=4, model_elites=3,
                    model_hidden_sizes=(64, 64),
                )  # fmt: skip
                args = replace(
                    args,
                    learning=Learning(base=flags["base"]),
                    offline=replace(args.offline, gradient_steps=40),
                    coda=replace(args.coda, relabel=relabel, relabel_steps=4000),
                    numbers=CodaHyperparameters(guidance_scale=1.0, mix=0.9375),
                    model=world,
                    hp=replace(args.hp, model_learning_rate=1e-2 if relabel == "model" else 1e-3),
                )
                learner, hp, data = build(args)
                _, metrics = jax.jit(make_train(learner, 60, 1))(seed_keys(0, 5), hp, data)
                payoff = np.asarray(metrics["eval/episode_return"])[-1, :, 0]
                error = metrics.get("train/reward_error")
                for seed in range(5):
                    row: dict[str, Any] = {"game": game, "base": name, "mode": mode, "relabel": relabel}
                    row |= {"seed": seed, "payoff": float(payoff[seed])}
                    rows.append(row | {"reward_error": "" if error is None else float(error[-1, seed])})
                print(game, name, mode, relabel, np.round(payoff, 3), flush=True)
                write("bases.csv", rows)


# --- Steering ---

H, N, A, S = 20, 2, 3, 4
TOY = Layout(N, obs_size=S, action_size=A, state_size=S)
SCALES = np.logspace(-3, 2, 16)


def _toy_system() -> tuple[np.ndarray, np.ndarray]:
    """How joint actions move the state, [6, 4], and the gains of three joint policies, [3, 2, 4, 3]."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(N * A, S)) / np.sqrt(N * A), 1.5 * rng.normal(size=(3, N, S, A)) / np.sqrt(S)


def toy_step(state: Any, action: Any) -> Any:
    """The true dynamics: s' = 0.9 s + 0.3 a B, for actions [..., N, A]."""
    return 0.9 * state + 0.3 * action.reshape(*action.shape[:-2], N * A) @ _toy_system()[0].astype(np.float32)


def toy_reward(state: Any) -> Any:
    """The true reward, -|s|^2 / 4."""
    return -0.25 * (state**2).sum(-1)


def toy_data(segments: int = 3000) -> np.ndarray:
    """Segments [E, H, C] of one of three joint policies each, tanh(K o) with noise of deviation 0.3."""
    rng, gains = np.random.default_rng(1), _toy_system()[1]
    state, which = rng.normal(size=(segments, S)), rng.integers(3, size=segments)
    rows = []
    for _ in range(H):
        mean = np.tanh(np.einsum("es,ensa->ena", state, gains[which]))
        action = np.clip(mean + 0.3 * rng.normal(size=mean.shape), -1, 1)
        flat = [
            state,
            np.tile(state, N),
            action.reshape(segments, -1),
            toy_reward(state)[:, None],
            np.zeros((segments, 1)),
        ]
        rows.append(np.concatenate(flat, axis=1))
        state = toy_step(state, action)
    return np.stack(rows, axis=1)


def steering() -> None:
    """Log-probability, consistency and support of guided segments against the guidance scale."""
    data = from_arrays(toy_data())
    config = GeneratorConfig(fit_steps=3000, fit_batch_size=64)
    generator = Generator(TOY, data.normaliser.varying, H, config, UNetConfig())
    hp = FitHyperparameters(fit_learning_rate=3e-3, ema_decay=0.995)
    began = time.perf_counter()
    params, curve = jax.block_until_ready(jax.jit(lambda key: generator.fit(key, hp, data))(jax.random.key(0)))
    print(f"fit: {time.perf_counter() - began:.0f} s, losses {np.asarray(curve)[-1]}", flush=True)
    gains = _toy_system()[1][0].astype(np.float32)  # "trained": one of those that made the data
    fresh = (0.1 * np.random.default_rng(2).normal(size=gains.shape)).astype(np.float32)
    seen = toy_data().reshape(-1, TOY.num_channels)
    spread = seen.std(axis=0)[np.r_[0:S, TOY.action_channels]]
    support = jnp.asarray(seen[::10][:, np.r_[0:S, TOY.action_channels]])

    def measure(generator: Generator, policy: jax.Array, scale: jax.Array) -> dict[str, jax.Array]:
        act = lambda obs: jnp.tanh(jnp.einsum("bhno,noa->bhna", obs, policy))  # noqa: E731
        made = TOY.split(
            generator.sample(
                params, jax.random.key(1), 128, data.normaliser,
                score=guidance.unit_variance(act), guidance_scale=scale,
            )
        )  # fmt: skip
        error = (made.state[:, 1:] - toy_step(made.state, made.action)[:, :-1]) / spread[:S]
        pairs = jnp.concatenate([made.state, made.action.reshape(*made.done.shape, N * A)], axis=-1).reshape(
            -1, S + N * A
        )
        return {
            "log_prob": diagnostics.action_log_prob(act(made.obs), made.action),
            "policy_distance": diagnostics.policy_distance(act(made.obs), made.action),
            "dynamics_error": jnp.sqrt(jnp.mean(jnp.square(error))),
            "reward_error": diagnostics.reward_error(made.reward, toy_reward(made.state)[..., None]),
            "view_mismatch": jnp.mean(jnp.abs(made.obs - made.state[:, :, None]) / spread[:S]),
            "support_distance": jnp.mean(diagnostics.support_distance(pairs[::8], support, jnp.asarray(spread))),
            "done_rate": diagnostics.done_rate(made.done),
        }

    rows = []
    for churn in (0.0, 80.0):
        changed = replace(generator, edm=EDMConfig(churn=churn))
        sweep = jax.jit(
            lambda policy, g=changed: jax.lax.map(lambda s: measure(g, policy, s), jnp.asarray([0.0, *SCALES]))
        )
        for name, policy in (("untrained", fresh), ("trained", gains)):
            found = jax.tree.map(np.asarray, sweep(jnp.asarray(policy)))
            for i, scale in enumerate([0.0, *SCALES]):
                row = {"policy": name, "churn": churn, "guidance_scale": float(scale)}
                rows.append(row | {key: float(value[i]) for key, value in found.items()})
            peak, falls = diagnostics.collapse_scale(SCALES, found["log_prob"][1:])
            print(f"{name}, churn {churn}: peak at {peak:.3g}, collapses: {falls}", flush=True)
    write("steering.csv", rows)
    panels = {
        "log_prob": "log-probability of actions", "dynamics_error": "dynamics error (deviations)",
        "reward_error": "reward error", "support_distance": "distance to the data (deviations)",
    }  # fmt: skip
    drawn, axes = figure(len(panels), 1, (3.8, 3.4))
    for ax, (key, label) in zip(axes[0], panels.items(), strict=True):
        for k, (name, churn) in enumerate((n, c) for n in ("untrained", "trained") for c in (0.0, 80.0)):
            found = [row for row in rows if (row["policy"], row["churn"]) == (name, churn)]
            values = [row[key] for row in found]
            style = {"color": COLOURS[k // 2], "linestyle": "--" if churn else "-"}
            ax.plot(SCALES, values[1:], label=f"{name}, {'churn 80' if churn else 'no churn'}", **style)
            ax.plot(SCALES[0] / 2, values[0], "o", color=COLOURS[k // 2], fillstyle="none" if churn else "full")
        ax.set(xscale="log", xlabel="guidance scale (dot: none)", title=label)
    axes[0][0].axhline(diagnostics.log_prob_ceiling(H, N * A), color="grey", linestyle=":")
    axes[0][0].legend(fontsize=7)
    drawn.savefig(HERE / "steering.png")
    _steer_actions()


def _steer_actions() -> None:
    """Joint actions of Twin Peaks for the policy where every run starts, by denoisers of five seeds, in 40 steps."""
    rows, scales = [], np.sort([0.0, 0.6, *np.logspace(-2, 1.5, 15)])
    for churn in (0.0, 80.0):
        args = presets("policy")["twin-peaks"]["small"]
        learner, hp, data = build(replace(args, edm=EDMConfig(churn=churn)))
        assert isinstance(learner, Coda)
        carries = jax.jit(jax.vmap(learner.init, in_axes=(0, None)))(seed_keys(0, 5), hp)
        carries = jax.jit(jax.vmap(learner.prepare, in_axes=(0, None)))(carries, data)

        def measure(carry: Any, data: Any, scale: jax.Array, learner: Coda = learner) -> dict[str, jax.Array]:
            carry = replace(carry, coda=replace(carry.coda, guidance_scale=scale))
            made = learner.generate(carry, data, jax.random.key(1), 512)
            true = polynomial.payoff(TwinPeaks(), made.action[..., 0])
            return {
                "distance": diagnostics.policy_distance(learner.act(carry, made.obs), made.action),
                "reward_error": diagnostics.reward_error(made.reward, true),
            }

        sweep = jax.jit(
            jax.vmap(lambda c, data, f=measure: jax.lax.map(partial(f, c, data), jnp.asarray(scales)), (0, None))
        )
        found = jax.tree.map(np.asarray, sweep(carries, data))
        for seed in range(5):
            for i, scale in enumerate(scales):
                row = {"churn": churn, "seed": seed, "guidance_scale": float(scale)}
                rows.append(row | {key: float(value[seed, i]) for key, value in found.items()})
    write("steering_actions.csv", rows)
    drawn, axes = figure(2)
    for churn, colour in ((0.0, COLOURS[0]), (80.0, COLOURS[1])):
        for ax, key in zip(axes[0], ("distance", "reward_error"), strict=True):
            for seed in range(5):
                mine = [r for r in rows if (r["churn"], r["seed"]) == (churn, seed)]
                label = {"label": f"churn {churn:.0f}"} if seed == 0 else {}
                x = [r["guidance_scale"] or 0.005 for r in mine]
                ax.plot(x[1:], [r[key] for r in mine[1:]], color=colour, alpha=0.6, **label)
                ax.plot(x[0], mine[0][key], "o", color=colour)
    axes[0][0].set(
        xscale="log", yscale="log", xlabel="guidance scale (dot: none)", title="distance to the joint policy"
    )
    axes[0][1].set(xscale="log", xlabel="guidance scale (dot: none)", title="reward error")
    axes[0][0].legend(fontsize=8)
    drawn.savefig(HERE / "steering_actions.png")
    for scale in (0.0, 0.6, 10.0):
        mine = [r["distance"] for r in rows if r["churn"] == 0 and np.isclose(r["guidance_scale"], scale)]
        print(f"one joint action, scale {scale}: {np.mean(mine):.4f} from the policy", flush=True)


# --- Size ---


def size() -> None:
    """The best guidance scale for data of d independent two-peaked actions, whose denoiser is exact."""
    centre, width, rows = 0.8, 0.2, []
    scales = np.logspace(-1.5, 2, 43)

    def denoiser(x: jax.Array, sigma: jax.Array) -> jax.Array:
        """E[x0 | x] for data of 0.5 N(centre, width^2) + 0.5 N(-centre, width^2) in each dimension."""
        total = width**2 + sigma**2
        sign = jnp.tanh(x * centre / total)
        return (x * width**2 + sign * centre * sigma**2) / total

    def rms(count: int, config: EDMConfig, scale: jax.Array) -> jax.Array:
        target = 0.5 * jnp.where(jnp.arange(count) % 2, 1.0, -1.0)
        guide = lambda denoised: guidance.unit_direction(target - denoised)  # noqa: E731
        steps = scale * jnp.asarray(guidance.schedule(config.num_steps))
        x = edm.sample(denoiser, jax.random.key(0), (64, count), config, guide, steps)
        return jnp.sqrt(jnp.mean(jnp.square(x - target)))

    sizes = (2, 6, 24, 120, 360)
    for churn in (0.0, 80.0):
        for count in sizes:
            measure: Callable = partial(rms, count, EDMConfig(churn=churn))
            found = np.asarray(jax.jit(lambda m=measure: jax.lax.map(m, jnp.asarray(scales)))())
            for scale, value in zip(scales, found, strict=True):
                rows.append({"churn": churn, "actions": count, "guidance_scale": float(scale), "rms": float(value)})
    write("size.csv", rows)
    _draw_size(rows, sizes)


def _draw_size(rows: list[dict[str, Any]], sizes: tuple[int, ...]) -> None:
    """Distances against the scale, and the scales that halve the distance of unguided samples, and that are best."""
    drawn, axes = figure(2)
    for churn, line in ((0.0, "-"), (80.0, "--")):
        halving, best = [], []
        for k, count in enumerate(sizes):
            found = [row for row in rows if (row["churn"], row["actions"]) == (churn, count)]
            scales, values = (np.array([row[key] for row in found]) for key in ("guidance_scale", "rms"))
            axes[0][0].plot(scales, values, line, color=COLOURS[k], label=None if churn else f"{count} actions")
            peak = int(values.argmin())
            # Distances fall up to the best scale: where, on the way there, are they half of the first?
            halving.append(float(np.exp(np.interp(-0.5 * values[0], -values[: peak + 1], np.log(scales[: peak + 1])))))
            best.append(float(scales[peak]))
        for values, colour, name in ((halving, "black", "halves the distance"), (best, COLOURS[1], "best")):
            slope = np.polyfit(np.log(sizes), np.log(values), 1)[0]
            print(f"churn {churn:g}, {name}: {np.round(values, 3)}, exponent {slope:.3f}", flush=True)
            label = f"{name}, churn {churn:g}: d^{slope:.2f}"
            axes[0][1].plot(sizes, values, f"o{line}", color=colour, label=label, markersize=4)
    axes[0][0].set(xscale="log", xlabel="guidance scale (dashed: churn 80)", ylabel="rms distance per action")
    axes[0][0].set_ylim(0, 1.2)
    axes[0][0].legend(fontsize=8)
    axes[0][1].set(xscale="log", yscale="log", xlabel="guided actions d = H N A", ylabel="guidance scale")
    axes[0][1].legend(fontsize=7)
    drawn.savefig(HERE / "size.png")


if __name__ == "__main__":
    args = tyro.cli(Args, description=__doc__)
    {"games": games, "closed": closed, "bases": bases, "steering": steering, "size": size}[args.study]()
