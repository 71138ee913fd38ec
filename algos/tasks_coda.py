"""Tasks for CODA and its baselines: what `algos/tasks_offline.py` has, and a generator.

`paper` is the scale of CODA (arXiv 2604.23308, tables 2 to 5): 10,000 steps of the denoiser at batch 1000, samplers of
40 steps, 1000 samples per round. On polynomial games the learner is MADDPG with the payoff for a critic, its "number of
transitions sampled 4000" is taken as the dataset's size, "burn-in iterations 2" as rounds on the dataset alone, an
epoch as one round of one policy step, and the share of generated data, which it does not print, as 1. On robots it is
MADDPG+BC; a round has 5000 gradient steps and 15 of 16 segments are generated, as in policy-guided diffusion's code,
since the paper says neither. `small` has a denoiser of one level and fewer steps everywhere, for two CPU cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import envs_jax
from algos import tasks_offline
from algos.tasks import Lazy
from algos.tasks_offline import DATASETS, GAMES, LEVELS, GameData, Learning, any_env, make_learner
from covey.diffusion import (
    Coda,
    CodaConfig,
    CodaData,
    CodaHyperparameters,
    EDMConfig,
    FitHyperparameters,
    GeneratorConfig,
    Hyperparameters,
    UNetConfig,
    diffuse,
)
from covey.diffusion.coda import Mode
from covey.experiment import RunConfig, cli
from covey.experiment.cli import Job
from covey.learners.offline import OfflineConfig, WorldModel
from envs_jax.games import polynomial
from envs_jax.games.polynomial import PolynomialGame


@dataclass(frozen=True)
class Args(tasks_offline.Args):
    """Settings of a run of CODA: those of an offline learner, and of its generator."""

    coda: CodaConfig = CodaConfig()
    generator: GeneratorConfig = GeneratorConfig()
    unet: UNetConfig = UNetConfig()
    edm: EDMConfig = EDMConfig()
    numbers: CodaHyperparameters = field(default_factory=CodaHyperparameters)
    fit: FitHyperparameters = field(default_factory=FitHyperparameters)


def build(args: Args) -> Job:
    """The learner, its hyper-parameters and its data."""
    if args.numbers.distrust > 0 and args.coda.relabel == "none" and not isinstance(args.env, PolynomialGame):
        raise ValueError(
            f"distrust is {args.numbers.distrust:g}, but rewards have no judge; allowed: with --relabel model"
        )
    offline, dataset, data = make_learner(args, judge=args.coda.relabel == "model")
    team, config = offline.base.team, args.offline
    layout, diffused = diffuse(
        dataset, team, config.horizon, stride=config.stride, kind=args.generator.normaliser, knots=args.generator.knots
    )
    env, reward = args.env, None
    if isinstance(env, PolynomialGame):
        reward = lambda segments: polynomial.payoff(env, segments.action[..., 0])  # noqa: E731
    learner = Coda(
        offline, layout, diffused.normaliser.varying, args.coda, args.generator, args.unet, args.edm, reward,
        WorldModel(team, args.model),
    )  # fmt: skip
    return Job(learner, Hyperparameters(args.numbers, args.fit, args.hp), CodaData(data, diffused))


def main(program: str, doc: str | None, presets: Mapping[str, Mapping[str, Args]], mode: Mode) -> None:
    """The command line of such a program: these presets, any registered environment, or a payoff: see `game_of`."""

    def for_env(env_id: str) -> Args:
        env = any_env(env_id)
        if isinstance(env, PolynomialGame):
            small = polynomial_game(env, mode)["small"]
            return replace(small, learning=replace(small.learning, initial=()))
        return robot(env, None, mode)["small"]

    envs: list[Any] = []

    def build_and_note(args: Args) -> Job:
        envs.append(args.env)
        return build(args)

    result = cli.main(program, doc, presets, build=build_and_note, for_env=for_env, env_ids=envs_jax.registered())
    theta = result.metrics.get("train/theta")
    if theta is not None and envs[0].num_agents == 2:
        draw_paths(result.folder / "paths.png", envs[0], theta)


def draw_paths(path: Path, game: PolynomialGame, theta: np.ndarray) -> None:
    """Where joint policies [U, S, 2] of two players went, over the payoff."""
    from PIL import Image

    Image.fromarray(polynomial.heat_map(game, np.swapaxes(theta, 0, 1))).save(path)


def _with_generator(args: tasks_offline.Args, mode: Mode) -> Args:
    """An offline learner's settings, with a generator's defaults."""
    return Args(**{f.name: getattr(args, f.name) for f in fields(args)}, coda=CodaConfig(mode))


def polynomial_game(env: PolynomialGame, mode: Mode) -> dict[str, Args]:
    """A polynomial game whose payoff is known, from the paper's start."""
    learned = tasks_offline.polynomial_game(env)["small"]
    offline = OfflineConfig(horizon=1, batch_size=64, gradient_steps=1, eval_episodes=1)
    paper = replace(
        _with_generator(learned, mode),
        learning=Learning(base="analytic", initial=(-0.64, 0.65)),
        game=GameData(),
        offline=offline,
        run=RunConfig(num_seeds=16, num_updates=150, num_evaluations=150, chunks=1),
        unet=UNetConfig(features=32),
    )
    small = replace(
        paper,
        coda=CodaConfig(mode, num_samples=64),
        generator=GeneratorConfig(fit_steps=1000, fit_batch_size=128),
        unet=UNetConfig(features=16, levels=1),
        edm=EDMConfig(num_steps=20),
        numbers=CodaHyperparameters(guidance_scale=1.0),
        fit=FitHyperparameters(ema_decay=0.99),
    )
    return {"paper": paper, "small": small}


def robot(env: Any, dataset: Path | None, mode: Mode) -> dict[str, Args]:
    """A robot, or any other environment, with a dataset."""
    paper, small = (tasks_offline.robot(env, dataset)[scale] for scale in ("paper", "small"))
    paper = replace(
        _with_generator(paper, mode),
        offline=replace(paper.offline, gradient_steps=5000),
        run=RunConfig(num_seeds=16, num_updates=60, num_evaluations=30),
        numbers=CodaHyperparameters(mix=0.9375),
        fit=FitHyperparameters(fit_learning_rate=1e-3),
    )
    small = replace(
        paper,
        policy=small.policy,
        critic=small.critic,
        offline=replace(paper.offline, batch_size=16, gradient_steps=1000, eval_episodes=4),
        coda=CodaConfig(mode, num_samples=256),
        generator=GeneratorConfig(fit_steps=2000, fit_batch_size=64),
        unet=UNetConfig(features=64),  # 16 features learn next to nothing of 24 channels in so few steps
        edm=EDMConfig(num_steps=16),
        hp=replace(paper.hp, learning_rate=1e-3, critic_learning_rate=1e-3),
        numbers=CodaHyperparameters(mix=0.5, guidance_scale=1.0),
        fit=FitHyperparameters(fit_learning_rate=3e-3, ema_decay=0.995),
        run=RunConfig(num_seeds=2, num_updates=12, num_evaluations=6, chunks=12),
    )
    return {"paper": paper, "small": small}


def presets(mode: Mode) -> Mapping[str, Mapping[str, Args]]:
    """All tasks in this mode; robots with the datasets that `make reproduce-mamujoco-data` makes."""
    datasets = [("halfcheetah_2x3", level) for level in LEVELS] + [("ant_4x2", "replay")]
    return Lazy(
        {name: partial(polynomial_game, env, mode) for name, env in GAMES.items()}
        | {
            f"{name}-{level}": lambda name=name, level=level: robot(
                envs_jax.make(f"mamujoco/{name}"), DATASETS / name / f"dataset-{level}", mode
            )
            for name, level in datasets
        }
    )
