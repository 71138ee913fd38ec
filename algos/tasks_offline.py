"""Tasks for offline learners: environments with a dataset, networks and settings, shared by the offline programs.

`paper` has the settings of CODA's baseline (arXiv 2604.23308, table 5, and OG-MARL's where it says nothing): policies
that share a GRU of 64 units and are told who they are, 300,000 gradient steps on 32 segments of 20 steps, bc_alpha 2.5,
16 seeds, 10 episodes. `small` is ours, without memory and for two CPU cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

import envs_jax
from algos.tasks import Lazy
from covey.data import Dataset, Gaussian, Law, Mixture, PointMass, Uniform, joint_action_samples, load
from covey.experiment import RunConfig
from covey.learners.offline import (
    AnalyticMADDPG,
    BaseName,
    CriticConfig,
    Offline,
    OfflineConfig,
    OfflineHyperparameters,
    OfflineLearner,
    Source,
    Team,
    WorldModel,
    WorldModelConfig,
    make_base,
    source,
)
from covey.policies import PolicyConfig
from envs_jax.games.polynomial import ActionAgreement, Multiplication, PolynomialGame, TwinPeaks, payoff

DataKind = Literal["uniform", "gaussian"]

LEVELS = ("poor", "medium", "good", "replay")
DATASETS = Path("runs/reproduce/mamujoco-data")
"""Where `make reproduce-mamujoco-data` leaves datasets."""


@dataclass(frozen=True)
class Learning:
    """What is learned from, and how."""

    dataset: Path | None = None
    """Folder of a dataset of this environment, in the format of covey.data. A polynomial game needs none: without one,
    joint actions are drawn."""
    base: BaseName | Literal["analytic"] = "maddpg_bc"
    """The learner: MADDPG+BC, MADDPG, MADDPG+CQL, independent TD3+BC, IQL, OMIGA, behaviour cloning; `analytic`, MADDPG
    with the payoff of a polynomial game for a critic and a number for a policy."""
    initial: tuple[float, ...] = ()
    """Base analytic: joint action at the start, a number per agent; empty for a random one, for each seed."""


@dataclass(frozen=True)
class GameData:
    """The offline dataset of a polynomial game: joint actions and their payoffs. Other environments don't read it."""

    data: DataKind = "uniform"
    """`uniform` over all joint actions, or `gaussian` around data_mean, within the bounds."""
    data_size: int = 4000
    """How many joint actions."""
    data_mean: tuple[float, ...] = ()
    """Centre of the Gaussian, a number per agent; several centres in a row for a mixture; empty for 0."""
    data_std: float = 0.3
    """Standard deviation around the centre, before what lies outside the bounds is cut off; 0 for a point mass."""
    data_seed: int = 0
    """Seed of the draw; all seeds of a run share one dataset."""

    def __post_init__(self) -> None:
        if self.data not in get_args(DataKind):
            raise ValueError(f"data is {self.data!r}; allowed: {', '.join(get_args(DataKind))}")
        if self.data_size < 2:
            raise ValueError(f"data_size is {self.data_size}; allowed: an integer of at least 2")
        if self.data_std < 0:
            raise ValueError(f"data_std is {self.data_std}; allowed: a number of at least 0")

    def law(self, game: PolynomialGame) -> Law:
        """What joint actions of this game are drawn from."""
        low, high = (tuple(bound.tolist()) for bound in game.bounds())
        if self.data == "uniform":
            return Uniform(game.num_agents, low, high)
        mean = np.asarray(self.data_mean or (0.0,) * game.num_agents)
        if mean.size % game.num_agents:
            raise ValueError(f"data_mean is {self.data_mean}; allowed: {game.num_agents} numbers for each centre")
        centres = [tuple(row.tolist()) for row in mean.reshape(-1, game.num_agents)]
        laws = [Gaussian(c, self.data_std, low, high) if self.data_std else PointMass(c) for c in centres]
        return laws[0] if len(laws) == 1 else Mixture(tuple(laws))

    def dataset(self, game: PolynomialGame) -> Dataset:
        """Episodes of one step."""
        key = jax.random.key(self.data_seed)
        provenance = {"game": repr(game), "seed": self.data_seed}
        return joint_action_samples(
            self.law(game), lambda a: payoff(game, a), key, self.data_size, provenance=provenance
        )


@dataclass(frozen=True)
class Args:
    """Settings of an offline run."""

    env: Any
    learning: Learning = Learning()
    game: GameData = GameData()
    policy: PolicyConfig = PolicyConfig(sharing="fups_id", recurrent=True, recurrent_size=64, recurrent_head=False)
    critic: CriticConfig = CriticConfig()
    offline: OfflineConfig = OfflineConfig()
    model: WorldModelConfig = WorldModelConfig()
    hp: OfflineHyperparameters = field(default_factory=OfflineHyperparameters)
    run: RunConfig = RunConfig(num_seeds=16, num_updates=300, num_evaluations=30)


def make_learner(args: Args, judge: bool = False) -> tuple[Offline, Dataset, Source]:
    """The program of the learner that is asked for, its dataset, and that dataset as it draws from it.

    judge: hold out episodes to judge a model by, as is done anyway for a world model.
    """
    if args.run.num_updates is None:
        raise ValueError("num_updates is None; an offline learner takes no environment steps, so it needs a number")
    config, found, base = args.offline, dataset(args), _base(args)
    model = WorldModel(base.team, args.model) if args.model.rollouts else None
    held_out = config.held_out if model or judge else 0.0
    data = source(found, base.team, config.horizon, stride=config.stride, held_out=held_out)
    return Offline(args.env, base, config, model, num_segments=len(data.starts)), found, data


def _base(args: Args) -> OfflineLearner:
    team, env = Team.of(args.env), args.env
    if args.learning.base != "analytic":
        return make_base(args.learning.base, team, args.policy, args.critic)
    if not isinstance(env, PolynomialGame):
        raise ValueError("base is 'analytic'; allowed in polynomial games alone, whose payoff is known")
    return AnalyticMADDPG(team, lambda actions: payoff(env, actions[..., 0]), args.learning.initial)


def dataset(args: Args) -> Dataset:
    """The dataset that is asked for, or joint actions of a polynomial game."""
    path = args.learning.dataset
    if path is not None:
        if not path.exists() and path.is_relative_to(DATASETS):
            raise ValueError(f"dataset is {path}, where nothing is; `make reproduce-mamujoco-data` makes it")
        return load(path)
    if not isinstance(args.env, PolynomialGame):
        raise ValueError(
            "dataset is None; allowed: the folder of a dataset of this environment; baselines/offline_data.py makes one"
        )
    return args.game.dataset(args.env)


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


def any_env(env_id: str) -> Any:
    """A registered environment, or the game of a payoff."""
    return game_of(env_id) if env_id.startswith("payoff/") else envs_jax.make(env_id)


# --- Settings of each kind of environment ---


def robot(env: Any, dataset: Path | None = None) -> dict[str, Args]:
    """CODA's baseline on a robot; in any other environment without settings of its own, too."""
    paper = Args(env, Learning(dataset), offline=OfflineConfig(eval_steps=None if env.max_steps else 128))
    small = replace(
        paper,
        policy=PolicyConfig(sharing="fups_id", hidden_sizes=(64, 64)),
        critic=CriticConfig(critic_hidden_sizes=(64, 64)),
        offline=replace(paper.offline, horizon=1, batch_size=256, eval_episodes=4),
        run=RunConfig(num_seeds=2, num_updates=40, num_evaluations=8, chunks=20),
    )
    return {"paper": paper, "small": small}


def navigation() -> dict[str, Args]:
    """Agents have rewards of their own, and observations hold all goals, which is what critics see."""
    small = replace(
        robot(envs_jax.make("navigation", num_agents=4))["small"],
        policy=PolicyConfig(sharing="nops", hidden_sizes=(64, 64)),
        critic=CriticConfig(critic="per_agent", critic_input="obs", critic_hidden_sizes=(64, 64)),
        offline=OfflineConfig(horizon=1, batch_size=256, gradient_steps=500, eval_episodes=32),
        hp=OfflineHyperparameters(learning_rate=1e-3, critic_learning_rate=1e-3, discount=0.9, target_rate=0.01),
        run=RunConfig(num_seeds=2, num_updates=20, num_evaluations=10, chunks=10),
    )
    return {"small": small}


def polynomial_game(env: PolynomialGame) -> dict[str, Args]:
    """A polynomial game with a critic that is learned."""
    small = Args(
        env,
        Learning(base="maddpg"),
        GameData(data_size=1000),
        PolicyConfig(sharing="nops", hidden_sizes=(16,)),
        CriticConfig(critic_hidden_sizes=(32, 32)),
        OfflineConfig(horizon=1, batch_size=64, gradient_steps=100, eval_episodes=1),
        WorldModelConfig(rollout_length=1),
        OfflineHyperparameters(learning_rate=3e-3, critic_learning_rate=3e-3, target_rate=0.02),
        RunConfig(num_seeds=4, num_updates=40, num_evaluations=20, chunks=5),
    )
    return {"small": small}


def for_env(env_id: str) -> Args:
    """Settings for a registered environment, or a payoff, that has none of its own."""
    env = any_env(env_id)
    return polynomial_game(env)["small"] if isinstance(env, PolynomialGame) else robot(env)["paper"]


GAMES = {"multiplication": Multiplication(), "twin-peaks": TwinPeaks(), "action-agreement": ActionAgreement()}

PRESETS: Mapping[str, Mapping[str, Args]] = Lazy(
    {
        **{name: partial(polynomial_game, env) for name, env in GAMES.items()},
        "navigation": navigation,
        "halfcheetah_2x3": lambda: robot(envs_jax.make("mamujoco/halfcheetah_2x3")),
        "ant_4x2": lambda: robot(envs_jax.make("mamujoco/ant_4x2")),
    }
)
