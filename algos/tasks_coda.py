"""Tasks for CODA and its baselines: polynomial games with an offline dataset, shared by their programs.

`paper` is the scale of CODA's polynomial games (arXiv 2604.23308, tables 2 and 4): 10,000 steps of the denoiser at
batch 1000, samplers of 40 steps, 1000 samples per round. Its "number of transitions sampled 4000" is taken as the
dataset's size, "burn-in iterations 2" as rounds on the dataset alone, an epoch as one round of one policy step, and the
share of generated data, which it does not print, as 1. `small` has a denoiser of one level, fitted for 1000 steps, and
draws 64 samples in 20 steps: minutes on two CPU cores for all modes with 16 seeds each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np

import envs_jax
from covey.diffusion import (
    Coda,
    CodaConfig,
    CodaHyperparameters,
    EDMConfig,
    FitHyperparameters,
    GeneratorConfig,
    Hyperparameters,
    Layout,
    OfflineData,
    UNetConfig,
    from_arrays,
)  # fmt: skip
from covey.diffusion.coda import Mode
from covey.experiment import RunConfig, cli
from covey.experiment.cli import Job
from covey.learners.analytic import AnalyticConfig, AnalyticHyperparameters, AnalyticMADDPG
from envs_jax.games import polynomial
from envs_jax.games.polynomial import ActionAgreement, Multiplication, PolynomialGame, TwinPeaks

DataKind = Literal["uniform", "gaussian"]


@dataclass(frozen=True)
class DataConfig:
    """The offline dataset of a polynomial game: joint actions and their rewards."""

    data: DataKind = "uniform"
    """`uniform` over all joint actions, or `gaussian` around data_mean, clipped to the bounds."""
    data_size: int = 4000
    """How many joint actions."""
    data_mean: tuple[float, ...] = ()
    """Centre of the Gaussian, a number per agent; several centres in a row for a mixture; empty for 0."""
    data_std: float = 0.3
    """Standard deviation around the centre; 0 for a point mass."""
    data_seed: int = 0
    """Seed of the draw; all seeds of a run share one dataset."""

    def __post_init__(self) -> None:
        if self.data not in get_args(DataKind):
            raise ValueError(f"data is {self.data!r}; allowed: {', '.join(get_args(DataKind))}")
        if self.data_size < 2:
            raise ValueError(f"data_size is {self.data_size}; allowed: an integer of at least 2")
        if self.data_std < 0:
            raise ValueError(f"data_std is {self.data_std}; allowed: a number of at least 0")


@dataclass(frozen=True)
class Args:
    """Settings of a run."""

    env: Any
    dataset: DataConfig = DataConfig()
    coda: CodaConfig = CodaConfig()
    generator: GeneratorConfig = GeneratorConfig(horizon=1)
    unet: UNetConfig = UNetConfig(features=32)
    edm: EDMConfig = EDMConfig()
    base: AnalyticConfig = AnalyticConfig()
    numbers: CodaHyperparameters = field(default_factory=CodaHyperparameters)
    fit: FitHyperparameters = field(default_factory=FitHyperparameters)
    base_numbers: AnalyticHyperparameters = field(default_factory=AnalyticHyperparameters)
    run: RunConfig = RunConfig()


def game_of(name: str) -> PolynomialGame:
    """The common-payoff game `payoff/C:D,D,.../C:D,D,...`: the sum of terms with coefficient C and each player's
    exponents D, so that Twin Peaks is payoff/-1:2,0/-1:0,2/-4:2,2/5:1,1. Raises ValueError for other text."""
    try:
        terms = [term.split(":") for term in name.split("/")[1:]]
        coefficients = tuple(float(c) for c, _ in terms)
        exponents = tuple(tuple(int(d) for d in row.split(",")) for _, row in terms)
    except ValueError:
        raise ValueError(
            f"the payoff is {name!r}; allowed: payoff/C:D,D/C:D,D/... with coefficients C and each player's exponents D"
        ) from None
    return PolynomialGame(len(exponents[0]) if exponents else 2, exponents=exponents, coefficients=coefficients)


def joint_actions(game: PolynomialGame, config: DataConfig) -> np.ndarray:
    """The dataset's joint actions, float32[M, N]."""
    rng, (low, high) = np.random.default_rng(config.data_seed), game.bounds()
    shape = (config.data_size, game.num_agents)
    if config.data == "uniform":
        return rng.uniform(low, high, shape).astype(np.float32)
    mean = np.asarray(config.data_mean or (0.0,) * game.num_agents)
    if mean.size % game.num_agents:
        raise ValueError(f"data_mean is {config.data_mean}; allowed: {game.num_agents} numbers for each centre")
    centres = mean.reshape(-1, game.num_agents)
    chosen = centres[rng.integers(len(centres), size=config.data_size)]
    return np.clip(chosen + config.data_std * rng.standard_normal(shape), low, high).astype(np.float32)


def layout(game: PolynomialGame) -> Layout:
    """A row of such a dataset: a state and observations that are 0, joint action, reward (each player's, if they
    differ), done."""
    rows = np.atleast_2d(np.asarray(game.coefficients))
    common = bool((rows == rows[0]).all())
    return Layout(game.num_agents, 1, 1, state_size=1, reward_size=1 if common else game.num_agents)


def dataset(game: PolynomialGame, config: DataConfig, generator: GeneratorConfig) -> OfflineData:
    """Segments of one step each."""
    if generator.horizon != 1:
        raise ValueError(f"horizon is {generator.horizon}; allowed: 1, the length of all episodes in the data")
    actions, sizes = joint_actions(game, config), layout(game).sizes
    rewards = np.asarray(polynomial.payoff(game, jnp.asarray(actions)))[:, : sizes[3]]
    seen, done = np.zeros((len(actions), sizes[0] + sizes[1])), np.ones((len(actions), 1))
    rows = np.concatenate([seen, actions, rewards, done], axis=1)
    return from_arrays(rows[:, None], generator.normaliser, generator.knots)


def build(args: Args) -> Job:
    """The learner, its hyper-parameters and its data."""
    game = args.env
    if not isinstance(game, PolynomialGame):
        raise ValueError(f"the environment is {game!r}; allowed: polynomial games")
    data = dataset(game, args.dataset, args.generator)
    base = AnalyticMADDPG(game, partial(polynomial.payoff, game), args.base)
    varying = data.normaliser.varying
    learner = Coda(base, layout(game), varying, args.coda, args.generator, args.unet, args.edm)
    return Job(learner, Hyperparameters(args.numbers, args.fit, args.base_numbers), data)


def main(program: str, doc: str | None, presets: Mapping[str, Mapping[str, Args]]) -> None:
    """The command line of such a program: these presets, any registered polynomial game, or a payoff: see `game_of`."""

    def for_env(env_id: str) -> Args:
        small = next(iter(presets.values()))["small"]
        env = game_of(env_id) if env_id.startswith("payoff/") else envs_jax.make(env_id)
        return replace(small, env=env, base=AnalyticConfig())

    ids = [env_id for env_id in envs_jax.registered() if env_id.startswith("polynomial")]
    games: list[PolynomialGame] = []

    def build_and_note(args: Args) -> Job:
        job = build(args)
        games.append(args.env)
        return job

    result = cli.main(program, doc, presets, build=build_and_note, for_env=for_env, env_ids=ids)
    if games[0].num_agents == 2:
        draw_paths(result.folder / "paths.png", games[0], result.metrics["train/theta"])


def draw_paths(path: Path, game: PolynomialGame, theta: np.ndarray) -> None:
    """Where joint policies [U, S, 2] of two players went, over the payoff."""
    from PIL import Image

    Image.fromarray(polynomial.heat_map(game, np.swapaxes(theta, 0, 1))).save(path)


def presets(mode: Mode) -> dict[str, dict[str, Args]]:
    """All tasks in this mode."""
    run = RunConfig(num_seeds=16, num_updates=150, num_evaluations=150, chunks=1)
    paper = Args(env=None, coda=CodaConfig(mode), base=AnalyticConfig((-0.64, 0.65)), run=run)
    small = replace(
        paper,
        coda=CodaConfig(mode, num_samples=64),
        generator=GeneratorConfig(horizon=1, fit_steps=1000, fit_batch_size=128),
        unet=UNetConfig(features=16, levels=1),
        edm=EDMConfig(num_steps=20),
        numbers=CodaHyperparameters(guidance_scale=1.0),
        fit=FitHyperparameters(ema_decay=0.99),
    )
    games = {"multiplication": Multiplication(), "twin-peaks": TwinPeaks(), "action-agreement": ActionAgreement()}
    return {
        name: {"paper": replace(paper, env=game), "small": replace(small, env=game)} for name, game in games.items()
    }
