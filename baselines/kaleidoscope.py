"""Kaleidoscope: MATD3 whose agents share one actor, each behind a learned mask of its own; a critic with masks, too.

Li, Pan, Zhang: Kaleidoscope: Learnable Masks for Heterogeneous Multi-agent Reinforcement Learning, NeurIPS 2024,
arXiv 2410.08540.

    --diversity, --critic-diversity  how strongly masks are pushed apart (0 for not at all)
    --num-critics                    masked copies of the critic (0 for MATD3's own two)
    --reset-interval                 environment steps between resets of weights that no mask lets through

Presets are those of `baselines/matd3.py`. See `covey.learners.kaleidoscope` for equations and what deviates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import envs_jax
from algos import tasks_matd3
from algos.tasks import Lazy
from covey.experiment import cli
from covey.experiment.cli import Job
from covey.learners.kaleidoscope import KaleidoscopeHyperparameters, KaleidoscopeMATD3
from covey.learners.matd3 import MATD3Hyperparameters
from covey.learners.replay import planned
from covey.policies.kaleidoscope import MaskConfig


@dataclass(frozen=True)
class Args(tasks_matd3.Args):
    """Settings of a Kaleidoscope run."""

    masks: MaskConfig = MaskConfig()
    hp: KaleidoscopeHyperparameters = field(default_factory=KaleidoscopeHyperparameters)


def build(args: Args) -> Job:
    """The learner and its hyper-parameters."""
    num_updates = args.run.updates(args.matd3.steps_per_update)
    learner = KaleidoscopeMATD3(args.env, args.policy, args.matd3, args.masks, num_updates)
    learner.check()  # Raises ValueError now for networks that do not fit together.
    if not args.run.quiet:
        print(planned(f"{args.matd3.buffer_size} steps", learner.replay_bytes(), args.run.num_seeds))
    return Job(learner, args.hp)


def masked(args: tasks_matd3.Args) -> Args:
    """MATD3's settings with masks on one actor, and on one critic where rewards are the same for all."""
    run = args.run
    steps = run.total_steps if run.num_updates is None else run.num_updates * args.matd3.steps_per_update
    masks = MaskConfig(
        num_critics=5 if args.matd3.critic == "team" else 0,
        reset_interval=min(200_000, steps // 4),
    )
    values = {name: value for name, value in vars(args).items() if name not in ("hp", "policy")}
    policy = replace(args.policy, sharing="fups")
    return Args(**values, policy=policy, hp=KaleidoscopeHyperparameters(**vars(args.hp)), masks=masks)


def for_env(env_id: str) -> Args:
    """General settings for any registered environment with continuous actions."""
    env = envs_jax.make(env_id)
    args = tasks_matd3.GAMES["navigation"]()["small"]
    matd3 = replace(args.matd3, critic_input="state", eval_steps=None if env.max_steps else 128)
    return masked(replace(args, env=env, matd3=matd3, hp=MATD3Hyperparameters(warmup_steps=5_000.0)))


_TASKS = tasks_matd3.presets()
PRESETS: Mapping[str, Any] = Lazy(
    {name: lambda name=name: {scale: masked(args) for scale, args in _TASKS[name].items()} for name in _TASKS}
)

if __name__ == "__main__":
    cli.main("kaleidoscope", __doc__, PRESETS, build=build, for_env=for_env, env_ids=envs_jax.registered())
