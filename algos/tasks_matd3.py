"""Tasks for MATD3: environment, networks and settings, shared by its programs.

`paper` is the scale of HyperMARL's MATD3 experiments (arXiv 2412.04233v4, table 7), whose settings it does not print:
they are those of HARL's tuned configurations (`tuned_configs/mamujoco/*/matd3`), from which its on-policy experiments
come; where HARL has none (Humanoid, the swimmer) those of its HATD3 on Humanoid. There an agent sees the whole state,
scaled to mean 0 and deviation 1 by itself; here it is not scaled. `small` ends within five minutes on two CPU cores,
with local views and the coarser `fast` physics: early in training. Robots that run need more steps and a larger memory
(`make reproduce-mamujoco-data` has both). Its settings are ours, as are those of the tasks without MuJoCo.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import envs_jax
from algos.tasks import Lazy, changed, generated
from covey.experiment import RunConfig, cli
from covey.experiment.cli import Job
from covey.learners.matd3 import MATD3, MATD3Config, MATD3Hyperparameters
from covey.learners.replay import planned
from covey.policies import PolicyConfig


@dataclass(frozen=True)
class Args:
    """Settings of a MATD3 run."""

    env: Any
    policy: PolicyConfig = PolicyConfig(hidden_sizes=(256, 256))
    matd3: MATD3Config = MATD3Config()
    hp: MATD3Hyperparameters = field(default_factory=MATD3Hyperparameters)
    run: RunConfig = RunConfig()


def build(args: Args) -> Job:
    """The learner and its hyper-parameters."""
    learner = MATD3(args.env, args.policy, args.matd3)
    learner.check()  # Raises ValueError now for networks that do not fit together.
    if not args.run.quiet:
        print(planned(f"{args.matd3.buffer_size} steps", learner.replay_bytes(), args.run.num_seeds))
    return Job(learner, args.hp)


def main(program: str, doc: str | None, presets: Mapping[str, Mapping[str, Args]]) -> None:
    """The command line of a MATD3 program: these presets, or any registered environment with continuous actions."""
    policy = next(iter(presets.values()))["small"].policy

    def for_env(env_id: str) -> Args:
        env = envs_jax.make(env_id)
        matd3 = replace(_SMALL.matd3, critic="per_agent", eval_steps=None if env.max_steps else 128)
        return replace(_SMALL, env=env, policy=policy, matd3=matd3, run=RunConfig(num_seeds=4, total_steps=500_000))

    cli.main(program, doc, presets, build=build, for_env=for_env, env_ids=envs_jax.registered())


def presets(**policy: Any) -> Mapping[str, Mapping[str, Args]]:
    """All tasks with these fields of `PolicyConfig` changed; robots are built when they are asked for."""

    def shared(scales: dict[str, Args]) -> dict[str, Args]:
        return {scale: changed(args, policy=policy) for scale, args in scales.items()}

    games = {name: lambda scales=scales: shared(scales()) for name, scales in GAMES.items()}
    return Lazy(
        games
        | {name: lambda robot=robot: generated(shared(robot()), learning_rate=1e-4) for name, robot in ROBOTS.items()}
    )


def _robot(
    env_id: str, *, n_step: int, policy_delay: int = 2, small: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Args]:
    """A MaMuJoCo task at both scales. small: what the small one changes of `_SMALL_ROBOT`, fields by the name of the
    part that they are in."""
    # HARL's walker learns its policy every 8th step, which its 50 steps per update are no multiple of.
    steps = 50 // policy_delay * policy_delay
    matd3 = {"n_step": n_step, "policy_delay": policy_delay, "gradient_steps": steps}
    return {
        "paper": replace(changed(_PAPER, matd3=matd3), env=envs_jax.make(env_id, obsk=None)),
        "small": replace(changed(_SMALL_ROBOT, **(small or {})), env=envs_jax.make(env_id, obsk=1, physics="fast")),
    }


# All agents have the same reward: one pair of critics, as in HARL. States are replayed, since the humanoid's 17 agents
# would take 50 GiB of observations. HARL evaluates 1000 times, four times the steps that it trains for.
_PAPER = Args(
    env=None,
    matd3=MATD3Config(critic="team", replay_of="states", eval_episodes=40),
    run=RunConfig(num_seeds=5, total_steps=10_000_000, num_evaluations=100, chunks=100),
)
_SMALL = Args(
    env=None,
    policy=PolicyConfig(hidden_sizes=(128, 128)),
    matd3=MATD3Config(
        num_envs=16, num_steps=32, buffer_size=300_000, gradient_steps=64, batch_size=256, n_step=5,
        critic="team", others="policy", critic_hidden_sizes=(128, 128), eval_episodes=8,
    ),
    hp=MATD3Hyperparameters(warmup_steps=5_000.0),
    run=RunConfig(num_seeds=2, total_steps=400_000, num_evaluations=10, chunks=20),
)  # fmt: skip

# Tried on HalfCheetah. A gradient step takes as long on a CPU core as fifteen environment steps, so there is one for
# every fourth of these.
_SMALL_ROBOT = replace(
    _SMALL,
    matd3=replace(_SMALL.matd3, num_envs=8, buffer_size=50_000, eval_episodes=4),
    hp=MATD3Hyperparameters(learning_rate=1e-3, exploration_noise=0.2, warmup_steps=5_000.0),
    run=RunConfig(num_seeds=2, total_steps=40_000, num_evaluations=5, chunks=10),
)


def _navigation() -> dict[str, Args]:
    # Rewards differ between agents, so each has its own critics; observations hold all goals and are what critics see.
    matd3 = replace(
        _SMALL.matd3, n_step=1, critic="per_agent", critic_input="obs", others="replay", eval_episodes=32,
        buffer_size=100_000,
    )  # fmt: skip
    hp = MATD3Hyperparameters(discount=0.9, warmup_steps=5_000.0, target_rate=0.01)
    run = RunConfig(num_seeds=2, total_steps=75_000, num_evaluations=10, chunks=10)
    env = envs_jax.make("navigation", num_agents=4)
    return {"small": Args(env, PolicyConfig(hidden_sizes=(64, 64)), matd3, hp, run)}


def _multiplication() -> dict[str, Args]:
    matd3 = MATD3Config(
        num_envs=16, num_steps=4, buffer_size=8192, gradient_steps=16, batch_size=64, others="policy",
        critic="team", critic_hidden_sizes=(32, 32), eval_episodes=1,
    )  # fmt: skip
    hp = MATD3Hyperparameters(learning_rate=3e-3, critic_learning_rate=3e-3, target_rate=0.02, warmup_steps=512.0)
    run = RunConfig(num_seeds=4, num_updates=200, num_evaluations=20, chunks=5)
    env = envs_jax.make("polynomial/multiplication")
    return {"small": Args(env, PolicyConfig(hidden_sizes=(32,)), matd3, hp, run)}


GAMES = {"multiplication": _multiplication, "navigation": _navigation}
ROBOTS = {
    "halfcheetah_2x3": lambda: _robot("mamujoco/halfcheetah_2x3", n_step=10),
    "hopper_3x1": lambda: _robot("mamujoco/hopper_3x1", n_step=5),
    "ant_4x2": lambda: _robot("mamujoco/ant_4x2", n_step=5),
    "walker2d_2x3": lambda: _robot("mamujoco/walker2d_2x3", n_step=20, policy_delay=8),
    # With 17 and 10 agents a gradient step takes longest, and a humanoid's program compiles for minutes.
    "humanoid_17x1": lambda: _robot(
        "mamujoco/humanoid_17x1",
        n_step=5,
        small={
            "matd3": {"gradient_steps": 16},
            "hp": {"warmup_steps": 1_000.0},
            "run": {"total_steps": 4_000, "num_evaluations": 2},
        },
    ),
    "swimmer_10x2": lambda: _robot(
        "mamujoco/manysegmentswimmer_10x2",
        n_step=5,
        small={"matd3": {"gradient_steps": 24}, "run": {"total_steps": 20_000}},
    ),
}
