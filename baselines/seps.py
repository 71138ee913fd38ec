"""SePS: agents that behave alike, by an encoder fitted to random play, share one actor and critic; PPO or A2C.

Christianos, Papoudakis, Rahman, Albrecht: Scaling Multi-Agent Reinforcement Learning with Selective Parameter Sharing,
ICML 2021, arXiv 2102.07475.

    --num-groups 3       how many groups; by default the number with the lowest Davies-Bouldin index
    --pretraining-steps  steps of random play before training, not counted among --total-steps

Groups are found anew by each seed, as the first part of its training; `train/group` and `train/num_groups` say which.
Presets are those of `baselines/ippo.py`; SePS's own task is blind particle spread (`bps-1` to `bps-4`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import envs_jax
from algos import tasks
from covey.experiment import cli
from covey.experiment.cli import Job
from covey.learners.seps import SePSHyperparameters, SePSPPO
from covey.policies.seps import GroupConfig


@dataclass(frozen=True)
class Args(tasks.Args):
    """Settings of a SePS run."""

    groups: GroupConfig = GroupConfig()
    hp: SePSHyperparameters = field(default_factory=SePSHyperparameters)


def build(args: Args) -> Job:
    """The learner and its hyper-parameters."""
    num_updates = args.run.updates(args.ppo.steps_per_update)
    learner = SePSPPO(args.env, args.policy, args.ppo, num_updates=num_updates, groups=args.groups)
    learner.actor_critic.count_parameters()  # Raises ValueError now for networks that do not fit together.
    return Job(learner, args.hp)


def grouped(args: tasks.Args) -> Args:
    """PPO's settings with groups."""
    values = {name: value for name, value in vars(args).items() if name != "hp"}
    agents = getattr(args.env, "num_agents", 3)
    groups = GroupConfig(num_groups=2 if agents < 3 else None)
    if agents > 20:  # Groups of three among 30 agents (bps-4) are not told apart with less.
        groups = replace(groups, pretraining_steps=10_000, fit_steps=5000)
    return Args(**values, hp=SePSHyperparameters(**vars(args.hp)), groups=groups)


_TASKS = tasks.presets(sharing="fups")
PRESETS: Mapping[str, Any] = tasks.Lazy(
    {
        name: lambda name=name: {scale: grouped(args) for scale, args in _TASKS[name].items()}
        for name in tasks.FEED_FORWARD
    }
)


def for_env(env_id: str) -> Args:
    """General settings for any registered environment."""
    return grouped(tasks.for_env(env_id, sharing="fups"))


if __name__ == "__main__":
    cli.main("seps", __doc__, PRESETS, build=build, for_env=for_env, env_ids=envs_jax.registered())
