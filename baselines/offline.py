"""Offline multi-agent learning from a dataset: MADDPG+BC, MADDPG, MADDPG+CQL, independent TD3+BC, IQL, BC.

    python baselines/offline.py halfcheetah_2x3 --dataset PATH               MADDPG+BC with CODA's settings
    python baselines/offline.py mamujoco/hopper_3x1 --dataset PATH --base iql        any registered environment
    python baselines/offline.py navigation --dataset PATH --rollouts 512     on a world model's rollouts, too
    python baselines/offline.py halfcheetah_2x3 --dataset PATH --sampling pjap       prioritised (Tilbury et al.)
    python baselines/offline.py twin_peaks --base maddpg                     no dataset: 1000 random joint actions

The dataset is a folder in the format of `covey.data` (`python -m covey.data convert` makes one of others' files,
`baselines/offline_data.py` one of a run of MATD3); the environment is only there to evaluate. `paper` has the settings
of CODA's baseline (arXiv 2604.23308, table 5, and OG-MARL's defaults where it says nothing): policies that share a GRU
of 64 units and are told who they are, 300,000 gradient steps on 32 segments of 20 steps, bc_alpha 2.5, 16 seeds, 10
episodes. One thing differs: here a policy's GRU is followed by one more layer of 64 units. `small` is ours, without
memory and for two CPU cores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

import envs_jax
from algos.tasks import Lazy
from covey.data import Dataset, Uniform, joint_action_samples, load
from covey.experiment import RunConfig, cli
from covey.experiment.cli import Job
from covey.learners.offline import (
    BaseName,
    CriticConfig,
    Offline,
    OfflineConfig,
    OfflineHyperparameters,
    Team,
    WorldModel,
    WorldModelConfig,
    make_base,
    source,
)
from covey.policies import PolicyConfig
from envs_jax.games.polynomial import PolynomialGame, payoff


@dataclass(frozen=True)
class Learning:
    """What is learned from, and how."""

    dataset: Path | None = None
    """Folder of a dataset of this environment, in the format of covey.data. A polynomial game needs none: without one,
    1000 joint actions are drawn uniformly."""
    base: BaseName = "maddpg_bc"
    """The learner: MADDPG+BC, MADDPG, MADDPG+CQL, independent TD3+BC, IQL, or behaviour cloning."""


@dataclass(frozen=True)
class Args:
    """Settings of an offline run."""

    env: Any
    learning: Learning = Learning()
    policy: PolicyConfig = PolicyConfig(sharing="fups_id", recurrent=True, recurrent_size=64)
    critic: CriticConfig = CriticConfig()
    offline: OfflineConfig = OfflineConfig()
    model: WorldModelConfig = WorldModelConfig()
    hp: OfflineHyperparameters = field(default_factory=OfflineHyperparameters)
    run: RunConfig = RunConfig(num_seeds=16, num_updates=300, num_evaluations=30)


def build(args: Args) -> Job:
    """The learner, its hyper-parameters and its data."""
    config = args.offline
    base = make_base(args.learning.base, Team.of(args.env), args.policy, args.critic)
    model = WorldModel(base.team, args.model) if args.model.rollouts else None
    data = source(
        dataset(args), base.team, config.horizon, stride=config.stride, held_out=config.held_out if model else 0.0
    )
    learner = Offline(args.env, base, config, model, num_segments=len(data.starts))
    if args.run.num_updates is None:
        raise ValueError("num_updates is None; an offline learner takes no environment steps, so it needs a number")
    return Job(learner, args.hp, data)


def dataset(args: Args) -> Dataset:
    """The dataset that is asked for, or random joint actions of a polynomial game."""
    if args.learning.dataset is not None:
        return load(args.learning.dataset)
    if not isinstance(args.env, PolynomialGame):
        raise ValueError(
            "dataset is None; allowed: the folder of a dataset of this environment; baselines/offline_data.py makes one"
        )
    low, high = args.env.bounds()
    if np.ptp(low) or np.ptp(high):
        raise ValueError("dataset is None; allowed where players' bounds differ: the folder of a dataset")
    law = Uniform(args.env.num_agents, float(low[0]), float(high[0]))
    return joint_action_samples(law, lambda a: payoff(args.env, a), jax.random.key(0), 1000)


def for_env(env_id: str) -> Args:
    """CODA's settings in any registered environment."""
    return _robot(env_id)["paper"]


def _robot(env_id: str) -> dict[str, Args]:
    env = envs_jax.make(env_id)
    paper = Args(env, offline=OfflineConfig(eval_steps=None if env.max_steps else 128))
    small = replace(
        paper,
        policy=PolicyConfig(sharing="fups_id", hidden_sizes=(64, 64)),
        critic=CriticConfig(critic_hidden_sizes=(64, 64)),
        offline=replace(paper.offline, horizon=1, batch_size=256, eval_episodes=4),
        run=RunConfig(num_seeds=2, num_updates=40, num_evaluations=8, chunks=20),
    )
    return {"paper": paper, "small": small}


def _navigation() -> dict[str, Args]:
    """Agents have rewards of their own, and observations hold all goals, which is what critics see."""
    small = replace(
        _robot("navigation")["small"],
        env=envs_jax.make("navigation", num_agents=4),
        policy=PolicyConfig(sharing="nops", hidden_sizes=(64, 64)),
        critic=CriticConfig(critic="per_agent", critic_input="obs", critic_hidden_sizes=(64, 64)),
        offline=OfflineConfig(horizon=1, batch_size=256, gradient_steps=500, eval_episodes=32),
        hp=OfflineHyperparameters(learning_rate=1e-3, critic_learning_rate=1e-3, discount=0.9, target_rate=0.01),
        run=RunConfig(num_seeds=2, num_updates=20, num_evaluations=10, chunks=10),
    )
    return {"small": small}


def _game(env_id: str) -> dict[str, Args]:
    small = Args(
        envs_jax.make(env_id),
        Learning(base="maddpg"),
        PolicyConfig(sharing="nops", hidden_sizes=(16,)),
        CriticConfig(critic_hidden_sizes=(32, 32)),
        OfflineConfig(horizon=1, batch_size=64, gradient_steps=100, eval_episodes=1),
        WorldModelConfig(rollout_length=1),
        OfflineHyperparameters(learning_rate=3e-3, critic_learning_rate=3e-3, target_rate=0.02),
        RunConfig(num_seeds=4, num_updates=40, num_evaluations=20, chunks=5),
    )
    return {"small": small}


PRESETS: Mapping[str, Mapping[str, Args]] = Lazy(
    {
        "multiplication": lambda: _game("polynomial/multiplication"),
        "twin_peaks": lambda: _game("polynomial/twin_peaks"),
        "navigation": _navigation,
        "halfcheetah_2x3": lambda: _robot("mamujoco/halfcheetah_2x3"),
        "ant_4x2": lambda: _robot("mamujoco/ant_4x2"),
    }
)


def main(
    program: str = "offline", doc: str | None = __doc__, build: Callable[[Args], Job] = build,
    presets: Mapping[str, Mapping[str, Args]] = PRESETS,
) -> None:  # fmt: skip
    """The command line of an offline program: these presets, or any registered environment."""
    cli.main(program, doc, presets, build=build, for_env=for_env, env_ids=envs_jax.registered())


if __name__ == "__main__":
    main()
