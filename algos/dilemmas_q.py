"""The social dilemmas of `algos/dilemmas.py` for the paper's own learner, recurrent Q-learning.

`paper` has the settings of "Fairness over Equality" (arXiv 2602.15407; from its authors' configuration files), `small`
ends within minutes on two CPU cores. Networks, in both: each cell to 32 numbers (small: 8), the whole window to 128
(64), a layer of 64, a gated recurrent unit of 64 (the paper's is an LSTM), a layer of 64.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from algos import dilemmas
from algos.dilemmas import MethodName, SocialConfig
from covey.experiment import RunConfig
from covey.experiment.cli import Job
from covey.learners.recurrent_q import (
    RecurrentQ,
    RecurrentQConfig,
    RecurrentQHyperparameters,
    SocialRecurrentQHyperparameters,
)
from covey.learners.replay import planned
from covey.policies import PolicyConfig


@dataclass(frozen=True)
class Args:
    """Settings of a run of recurrent Q-learning with a social reward."""

    env: Any
    social: SocialConfig = SocialConfig()
    policy: PolicyConfig = PolicyConfig(sharing="nops", recurrent=True, recurrent_size=64)
    q: RecurrentQConfig = RecurrentQConfig()
    hp: RecurrentQHyperparameters = field(default_factory=RecurrentQHyperparameters)
    run: RunConfig = RunConfig()


def build(args: Args) -> Job:
    """The learner and its hyper-parameters; prints the memory that the replay will take."""
    reward, numbers = args.social.make("default", args.env.num_agents)
    hp = {f.name: getattr(args.hp, f.name) for f in dataclasses.fields(args.hp)}
    hp = SocialRecurrentQHyperparameters(**hp, social=numbers)
    learner = RecurrentQ(args.env, args.policy, args.q, reward)
    learner.check(hp)
    if not args.run.quiet:
        what = f"{args.q.buffer_sequences} sequences of {args.q.num_steps} steps"
        print(planned(what, learner.replay_bytes(), args.run.num_seeds))
    return Job(learner, hp)


def general(env: Any) -> Args:
    """General settings for an environment."""
    return replace(_SMALL, env=env, q=replace(_SMALL.q, eval_steps=None if env.max_steps else 128))


main = partial(dilemmas.main, build=build, general=general)


def presets(method: MethodName) -> dict[str, dict[str, Args]]:
    """All tasks at both scales with this social reward and the paper's numbers for each task."""
    return {
        name: {
            "paper": _paper(name, scales["paper"].env, method),
            "small": replace(_SMALL, env=scales["small"].env, social=SocialConfig(method, numbers=name)),
        }
        for name, scales in dilemmas.TASKS.items()
    }


def _paper(name: str, env: Any, method: MethodName) -> Args:
    # Of 5 and 10 million steps it is not known which game had which; an evaluation each 50 000 or 100 000.
    total = 5_000_000 if name.startswith("coins") else 10_000_000
    run = RunConfig(num_seeds=5, total_steps=total, num_evaluations=100, chunks=100)
    return Args(env, SocialConfig(method, numbers=name), _PAPER_POLICY, RecurrentQConfig(), run=run)


_PAPER_POLICY = PolicyConfig(sharing="nops", recurrent=True, recurrent_size=64, encoder_channels=32, encoder_size=128)
# Ours: with the paper's learning rate nothing is learnt in runs this short.
_SMALL = Args(
    env=None,
    policy=PolicyConfig(sharing="nops", recurrent=True, recurrent_size=64),
    q=RecurrentQConfig(num_envs=16, num_steps=50, gradient_steps=10, batch_sequences=8),
    hp=RecurrentQHyperparameters(learning_rate=5e-4, target_rate=0.02, epsilon_end=0.05, epsilon_steps=150_000),
    run=RunConfig(num_seeds=4, total_steps=320_000, num_evaluations=20, chunks=20),
)
