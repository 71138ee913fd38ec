"""The social dilemmas of "Fairness over Equality" (arXiv 2602.15407) for learners with social rewards.

Each game comes with all agents alike and in the paper's asymmetric compositions; Cleanup, which the paper does not
have, is ours. `paper` is the paper's scale as far as it is known (what is not is marked "ours"; the paper trains
recurrent Q-learning, and PPO's settings are those of its author's later code, or ours). `small` ends within minutes on
two CPU cores and still is a dilemma: fewer agents, a small map, short episodes, faster growth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import envs_jax
from covey import social
from covey.experiment import RunConfig, cli
from covey.experiment.cli import Job
from covey.learners.ppo import PPO, PPOConfig, PPOHyperparameters, SocialPPOHyperparameters
from covey.policies import PolicyConfig
from covey.social import SocialParameters, SocialReward

MethodName = Literal[
    "selfish", "common", "group_shared", "inequity_aversion", "social_value_orientation",
    "mckee_social_value_orientation", "fair_local_ia", "fair_local_svo",
]  # fmt: skip
Numbers = tuple[float, ...] | None


@dataclass(frozen=True)
class SocialConfig:
    """What agents learn on. None: as the method has it, with the paper's numbers for the game; per agent one number for
    all, or one for each."""

    method: MethodName = "selfish"
    """Social reward: own reward only; everyone's sum; the mean of one's group (see groups); inequity aversion (Hughes
    et al. 2018); social value orientation as in 2602.15407 or as in McKee et al. 2020; Fair&Local forms of both."""
    numbers: str | None = None
    """The paper's numbers for which game and composition, such as harvest_5high_5low; None, or where a method has none
    for it: its numbers for the game, or its default ones."""
    alpha: Numbers = None
    """Envy: cost of having less than others, per agent."""
    beta: Numbers = None
    """Guilt: cost of having more than others, per agent."""
    orientation_weight: Numbers = None
    """Cost per degree (or radian) between an agent's reward angle and its target, per agent."""
    target_angle: Numbers = None
    """Reward angle that an agent prefers, in degrees from 0 (selfish) to 90 (altruistic), per agent."""
    agent_weights: Numbers = None
    """Factor of an agent's whole social term, per agent."""
    smoothing: float | None = None
    """lambda in the decay gamma lambda of smoothed rewards per step, in [0, 1]."""
    discount: float | None = None
    """gamma in the decay gamma lambda of smoothed rewards, in [0, 1] (not the learner's)."""
    age_discount: float | None = None
    """Factor per step of age of what an agent knows of another, in [0, 1]."""
    reward_low: Numbers = None
    """Lowest lasting reward per step, for analytic bounds, per agent."""
    reward_high: Numbers = None
    """Highest lasting reward per step, for analytic bounds, per agent."""
    warmup_steps: float | None = None
    """Steps of each environment after which warmup bounds are fixed."""
    normalise: Literal["none", "running", "shared", "analytic", "warmup"] | None = None
    """Bounds that smoothed rewards are relative to: none, lowest and highest so far in the environment or over all of
    them, from the parameters, or as they were after warmup_steps."""
    weighting: Literal["none", "given", "range"] | None = None
    """Weights of agents: 1, agent_weights, or these times each agent's range of rewards over the mean one."""
    feedback: Literal["global", "gossip", "memory", "visible"] | None = None
    """What agents know of others: all, what they see and are told, the last they saw, or only what they see now."""
    unmet: Literal["zero", "skip"] | None = None
    """Others of whom nothing was heard yet count as 0 or are left out."""
    clamp: bool | None = None
    """Keep smoothed rewards above 0 where they are not normalised."""
    unit: Literal["degrees", "radians"] | None = None
    """What reward angles are counted in."""
    share: Literal["sum", "mean"] | None = None
    """What a group shares."""
    groups: tuple[int, ...] | None = None
    """Group of each agent, for shared rewards; None for one group."""

    def make(self, preset: str, num_agents: int) -> tuple[SocialReward, SocialParameters]:
        """The reward and its numbers (those of `preset` if `numbers` is None), weights of agents stretched over
        `num_agents`. Raises ValueError for settings that do not fit."""
        if self.method not in social.METHODS:
            raise ValueError(f"social.method is {self.method!r}; allowed: {', '.join(social.METHODS)}")
        known = sorted({name for method in social.METHODS.values() for name in method.presets})
        if self.numbers is not None and self.numbers not in (*known, *TASKS):
            raise ValueError(f"social.numbers is {self.numbers!r}; allowed: {', '.join(known)}")
        name = self.numbers or preset
        own = social.METHODS[self.method].presets
        numbers = own.get(name) or own.get(name.split("_")[0]) or own["default"]
        weights = numbers.agent_weights
        if isinstance(weights, tuple) and len(weights) != num_agents:  # The paper's composition at another size.
            weights = tuple(weights[i * len(weights) // num_agents] for i in range(num_agents))
        given: dict[str, Any] = {"agent_weights": weights}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name in ("method", "numbers") or value is None:
                continue
            one = f.name in _PER_AGENT and len(value) == 1
            given[f.name] = value[0] if one else value
        fields = {f.name for f in dataclasses.fields(SocialParameters)}
        try:
            numbers = replace(numbers, **{k: v for k, v in given.items() if k in fields})
            switches = {k: v for k, v in given.items() if k not in fields}
            reward, _ = social.make(self.method, **switches)
            reward.check(num_agents, numbers)
        except ValueError as error:
            raise ValueError(f"social: {error}") from None
        return reward, numbers


_PER_AGENT = (
    "alpha", "beta", "orientation_weight", "target_angle", "agent_weights", "reward_low", "reward_high",
)  # fmt: skip


@dataclass(frozen=True)
class Args:
    """Settings of a PPO run with a social reward."""

    env: Any
    social: SocialConfig = SocialConfig()
    policy: PolicyConfig = PolicyConfig(sharing="nops")
    ppo: PPOConfig = PPOConfig()
    hp: PPOHyperparameters = field(default_factory=PPOHyperparameters)
    run: RunConfig = RunConfig()


def build(args: Args) -> Job:
    """The learner and its hyper-parameters."""
    reward, numbers = args.social.make("default", args.env.num_agents)
    num_updates = args.run.updates(args.ppo.steps_per_update)
    learner = PPO(args.env, args.policy, args.ppo, num_updates=num_updates, social=reward)
    learner.actor_critic.count_parameters()  # Raises ValueError now for networks that do not fit together.
    hp = {f.name: getattr(args.hp, f.name) for f in dataclasses.fields(args.hp)}
    return Job(learner, SocialPPOHyperparameters(**hp, social=numbers))


def general(env: Any) -> Args:
    """General settings for an environment."""
    return Args(env, ppo=PPOConfig(eval_steps=None if env.max_steps else 128, eval_greedy=False))


def main(
    program: str,
    doc: str | None,
    presets: dict[str, dict[str, Any]],
    build: Callable[[Any], Job] = build,
    general: Callable[[Any], Any] = general,
) -> None:
    """The command line of a program: these presets, or any registered environment with their method.

    build, general: those of another learner, which has an `Args` of its own.
    """
    method = next(iter(next(iter(presets.values())).values())).social.method

    def for_env(env_id: str) -> Any:
        run = RunConfig(num_seeds=4, total_steps=1_000_000)
        return replace(general(envs_jax.make(env_id)), social=SocialConfig(method, numbers="default"), run=run)

    cli.main(program, doc, presets, build=build, for_env=for_env, env_ids=envs_jax.registered())


def presets(method: MethodName) -> dict[str, dict[str, Args]]:
    """All tasks at both scales with this social reward and the paper's numbers for each task."""
    config = SocialConfig(method)
    return {
        name: {scale: replace(args, social=replace(config, numbers=name)) for scale, args in scales.items()}
        for name, scales in TASKS.items()
    }


# Networks: each cell to 32 numbers, the whole window to 128, two layers of 64, after the paper's Q-network; its
# author's PPO has three convolutions. PPO as there, without normalised advantages, so that rewards' scale matters.
_PAPER = Args(
    env=None,
    policy=PolicyConfig(sharing="nops", hidden_sizes=(64, 64), encoder_channels=32, encoder_size=128),
    ppo=PPOConfig(
        num_envs=32,
        num_steps=1000,
        update_epochs=2,
        num_minibatches=16,
        normalize_advantages="none",
        anneal_learning_rate=True,
        eval_episodes=10,
        eval_greedy=False,
    ),
    hp=PPOHyperparameters(learning_rate=5e-5, entropy_coefficient=0.05, max_grad_norm=5.0),
    run=RunConfig(num_seeds=5, total_steps=100_000_000, num_evaluations=200, chunks=200),
)
_SMALL = Args(
    env=None,
    policy=PolicyConfig(sharing="nops", hidden_sizes=(32,), encoder_channels=4, encoder_size=32),
    ppo=PPOConfig(
        num_envs=16,
        num_steps=100,
        update_epochs=2,
        num_minibatches=4,
        normalize_advantages="agent",
        eval_episodes=8,
        eval_greedy=False,
    ),
    hp=PPOHyperparameters(learning_rate=1e-3, entropy_coefficient=0.02),
    run=RunConfig(num_seeds=8, total_steps=150_000, num_evaluations=25, chunks=25),
)


def _task(paper: dict[str, Any], small: dict[str, Any], small_run: Args = _SMALL) -> dict[str, Args]:
    return {
        "paper": replace(_PAPER, env=envs_jax.make(**paper)),
        "small": replace(small_run, env=envs_jax.make(**small)),
    }


# The author's map and rates; the window is centred, as the paper's locality is; removal for 25 steps as in its code.
_HARVEST = {
    "env_id": "harvest",
    "map": "diamonds",
    "num_agents": 10,
    "window": "centred",
    "regrowth": (0.0, 0.005, 0.02, 0.05),
    "removal_steps": 25,
}
# Selfish agents at first live off an orchard that grows back, then ever faster eat it bare.
_HARVEST_SMALL = {
    "env_id": "harvest",
    "map": "grove",
    "num_agents": 4,
    "window": "centred",
    "regrowth": (0.0, 0.0025, 0.005, 0.025),
    "removal_steps": 10,
    "view_size": 7,
    "max_steps": 300,
}
_COINS = {"env_id": "coins", "window": "centred"}
# As many coins as two agents can take, so that a coin left to the other is a coin lost.
_COINS_SMALL = _COINS | {"map": "6x6", "coin_rate": 0.005, "view_size": 7, "max_steps": 200}
_COINS_SMALL_RUN = replace(
    _SMALL, hp=replace(_SMALL.hp, learning_rate=3e-3), run=replace(_SMALL.run, total_steps=300_000)
)
_CLEANUP = {"env_id": "cleanup", "num_agents": 10, "window": "centred"}
# Waste comes so fast that cleaning does not pay for one alone.
_CLEANUP_SMALL = _CLEANUP | {
    "map": "small",
    "num_agents": 4,
    "waste_probability": 0.25,
    "view_size": 7,
    "max_steps": 200,
}

TASKS: dict[str, dict[str, Args]] = {
    "harvest": _task(_HARVEST, _HARVEST_SMALL),
    "harvest_5high_5low": _task(_HARVEST | {"roles": "5high_5low"}, _HARVEST_SMALL | {"roles": "2high_2low"}),
    "harvest_5standard_5wide_zapper": _task(
        _HARVEST | {"roles": "5standard_5wide_zapper"}, _HARVEST_SMALL | {"roles": "2standard_2wide_zapper"}
    ),
    "coins": _task(_COINS, _COINS_SMALL, _COINS_SMALL_RUN),
    "coins_1high_1low": _task(
        _COINS | {"roles": "1high_1low"}, _COINS_SMALL | {"roles": "1high_1low"}, _COINS_SMALL_RUN
    ),
    "coins_1standard_1spawn_biased": _task(
        _COINS | {"roles": "1standard_1spawn_biased"},
        _COINS_SMALL | {"roles": "1standard_1spawn_biased"},
        _COINS_SMALL_RUN,
    ),
    "cleanup": _task(_CLEANUP, _CLEANUP_SMALL),
    "cleanup_high_low": _task(_CLEANUP | {"roles": "high_low"}, _CLEANUP_SMALL | {"roles": "high_low"}),
    "cleanup_cleaner_consumer": _task(
        _CLEANUP | {"roles": "cleaner_consumer"}, _CLEANUP_SMALL | {"roles": "cleaner_consumer"}
    ),
}
