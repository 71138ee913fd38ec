"""The HyperMARL paper's tasks for PPO: environment, networks and settings, shared by all PPO programs here.

`paper` is the paper's scale, with its settings where they are known (arXiv 2412.04233v4, tables 9 to 14, and the
authors' configuration files); `small` ends within minutes on two CPU cores. What the paper does not say is marked
"ours".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal

import envs_jax
from covey.experiment import RunConfig, cli
from covey.experiment.cli import Job
from covey.learners.ppo import PPO, PPOConfig, PPOHyperparameters
from covey.policies import PolicyConfig
from covey.policies.actor_critic import SharingName


@dataclass(frozen=True)
class Args:
    """Settings of a PPO run."""

    env: Any
    policy: PolicyConfig = PolicyConfig()
    ppo: PPOConfig = PPOConfig()
    hp: PPOHyperparameters = field(default_factory=PPOHyperparameters)
    run: RunConfig = RunConfig()


def build(args: Args, centralised_critic: bool, learner_type: type[PPO] = PPO) -> Job:
    """The learner and its hyper-parameters; IPPO, or with a centralised critic MAPPO, or a learner like it."""
    num_updates = args.run.updates(args.ppo.steps_per_update)
    learner = learner_type(args.env, args.policy, args.ppo, centralised_critic, num_updates)
    learner.actor_critic.count_parameters()  # Raises ValueError now for networks that do not fit together.
    return Job(learner, args.hp)


def main(
    program: str,
    doc: str | None,
    presets: Mapping[str, Mapping[str, Args]],
    centralised_critic: bool,
    learner_type: type[PPO] = PPO,
    **policy: Any,
) -> None:
    """The command line of a PPO program: these presets, or any registered environment with these fields of
    `PolicyConfig` changed."""
    cli.main(
        program,
        doc,
        presets,
        build=partial(build, centralised_critic=centralised_critic, learner_type=learner_type),
        for_env=partial(for_env, **policy),
        env_ids=envs_jax.registered(),
    )


def for_env(env_id: str, **policy: Any) -> Args:
    """General settings for any registered environment."""
    env = envs_jax.make(env_id)
    if getattr(env, "observation", None) == "symbols":  # codes of cells, which these networks cannot take as numbers
        env = envs_jax.make(env_id, observation="onehot")
    eval_steps = None if env.max_steps else 128
    return Args(
        env, PolicyConfig(**policy), PPOConfig(eval_steps=eval_steps), run=RunConfig(num_seeds=4, total_steps=1_000_000)
    )


def presets(
    learner: Literal["ippo", "mappo"] = "ippo", smax_sharing: SharingName | None = None, **policy: Any
) -> Mapping[str, Mapping[str, Args]]:
    """All tasks at both scales, with these fields of `PolicyConfig` changed; robots and battles are built when asked
    for. learner: whose settings for SMAX, where sharing is `smax_sharing` if that is given."""

    def shared(scales: dict[str, Args]) -> dict[str, Args]:
        return {scale: changed(args, policy=policy) for scale, args in scales.items()}

    def battle(name: str) -> dict[str, Args]:
        config = replace(PolicyConfig(), **policy)
        return _battle(name, learner, replace(config, sharing=smax_sharing) if smax_sharing else config)

    made = {name: lambda scales=scales: shared(scales) for name, scales in TASKS.items()}
    made |= {name: lambda robot=robot: generated(shared(robot()), learning_rate=1e-4) for name, robot in ROBOTS.items()}
    return Lazy(made | {name: lambda name=name: battle(name) for name in BATTLES})


def changed(args: Any, **parts: Mapping[str, Any]) -> Any:
    """Settings with these fields of these parts changed."""
    return replace(args, **{part: replace(getattr(args, part), **fields) for part, fields in parts.items()})


class Lazy(Mapping[str, Any]):
    """A mapping whose values are made when they are first asked for: a robot's environment imports MuJoCo, a battle's
    JaxMARL."""

    def __init__(self, makers: Mapping[str, Callable[[], Any]]) -> None:
        self._makers, self._made = dict(makers), {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


# The paper trains these games by REINFORCE, with one hidden layer of 64; PPO and its settings are ours.
_MATCHING = Args(
    env=None,
    policy=PolicyConfig(hidden_sizes=(64,)),
    ppo=PPOConfig(num_envs=8, num_steps=32, update_epochs=4, num_minibatches=2, eval_episodes=8),
    hp=PPOHyperparameters(learning_rate=1e-3, entropy_coefficient=0.01),
    run=RunConfig(num_seeds=10, total_steps=200_000),
)
_MATCHING_SMALL = replace(_MATCHING, run=RunConfig(num_seeds=4, total_steps=60_000, chunks=10))

# Tables 10 and 11. The paper gives no time limit; 100 steps are ours.
_DISPERSION = Args(
    env=envs_jax.make("dispersion", num_agents=4),
    policy=PolicyConfig(hidden_sizes=(64, 64), activation="relu"),
    ppo=PPOConfig(num_envs=16, num_steps=128, update_epochs=4, num_minibatches=2, eval_episodes=32),
    hp=PPOHyperparameters(learning_rate=5e-4, entropy_coefficient=0.01),
    run=RunConfig(num_seeds=10, total_steps=20_000_000, num_evaluations=200, chunks=100),
)
_DISPERSION_SMALL = replace(_DISPERSION, run=RunConfig(num_seeds=8, total_steps=500_000, num_evaluations=20, chunks=20))

# Table 14; table 13, the rest, could not be had: the settings of the benchmark that the paper matches (BenchMARL's
# IPPO).
_NAVIGATION = Args(
    env=envs_jax.make("navigation", num_agents=4),
    policy=PolicyConfig(hidden_sizes=(256, 256), activation="tanh"),
    ppo=PPOConfig(num_envs=600, num_steps=100, update_epochs=45, num_minibatches=15, eval_episodes=200),
    hp=PPOHyperparameters(
        learning_rate=5e-5,
        discount=0.9,
        gae_lambda=0.9,
        entropy_coefficient=0.0,
        value_coefficient=1.0,
        max_grad_norm=5.0,
    ),
    run=RunConfig(num_seeds=5, total_steps=10_000_000, num_evaluations=80, chunks=80),
)
_NAVIGATION_SMALL = replace(
    _NAVIGATION,
    policy=PolicyConfig(hidden_sizes=(64, 64), activation="tanh"),
    ppo=PPOConfig(num_envs=32, num_steps=100, update_epochs=8, num_minibatches=4, eval_episodes=32),
    hp=replace(_NAVIGATION.hp, learning_rate=5e-4),
    run=RunConfig(num_seeds=4, total_steps=640_000, chunks=20),
)

# A2C as in the code of SePS, whose task this is: PPO with a single step on each rollout, before which no ratio clips,
# and n-step returns. The paper says A2C, 20 M steps and 5 seeds; its settings could not be had.
_BLIND_SPREAD = Args(
    env=None,
    policy=PolicyConfig(hidden_sizes=(64, 64), activation="relu"),
    ppo=PPOConfig(
        num_envs=8,
        num_steps=5,
        update_epochs=1,
        num_minibatches=1,
        normalize_advantages="none",
        clip_values=False,
        eval_episodes=32,
    ),
    hp=PPOHyperparameters(learning_rate=3e-4, gae_lambda=1.0, entropy_coefficient=0.01, value_coefficient=1.0),
    run=RunConfig(num_seeds=5, total_steps=20_000_000, num_evaluations=100, chunks=100),
)
# Ours: PPO, which needs a fraction of the steps.
_BLIND_SPREAD_SMALL = replace(
    _BLIND_SPREAD,
    ppo=PPOConfig(num_envs=16, num_steps=50, update_epochs=4, num_minibatches=4, eval_episodes=32),
    hp=PPOHyperparameters(learning_rate=1e-3, entropy_coefficient=0.01),
    run=RunConfig(num_seeds=2, total_steps=200_000, num_evaluations=10, chunks=10),
)

TASKS: dict[str, dict[str, Args]] = {
    "specialisation": {
        "paper": replace(_MATCHING, env=envs_jax.make("specialisation", num_agents=4)),
        "small": replace(_MATCHING_SMALL, env=envs_jax.make("specialisation", num_agents=4, max_steps=32)),
    },
    "synchronisation": {
        "paper": replace(_MATCHING, env=envs_jax.make("synchronisation", num_agents=4)),
        "small": replace(_MATCHING_SMALL, env=envs_jax.make("synchronisation", num_agents=4, max_steps=32)),
    },
    "dispersion": {"paper": _DISPERSION, "small": _DISPERSION_SMALL},
    "navigation": {"paper": _NAVIGATION, "small": _NAVIGATION_SMALL},
} | {
    name: {
        "paper": replace(_BLIND_SPREAD, env=envs_jax.make(name)),
        "small": replace(_BLIND_SPREAD_SMALL, env=envs_jax.make(name)),
    }
    for name in ("bps-1", "bps-2", "bps-3", "bps-4")
}


# Settings of HARL's MAPPO, which the paper's experiments come from, where an agent sees the whole state, too; those
# that HARL has for each robot are below.
_ROBOT = Args(
    env=None,
    policy=PolicyConfig(
        hidden_sizes=(128, 128, 128),
        layer_norm=True,
        initial_std=0.3655,  # 0.5 sigmoid(1)
        max_std=0.5,
        generate="actor",
    ),
    ppo=PPOConfig(num_envs=20, eval_episodes=40, normalize_values=True, value_loss="huber", clip_critic_apart=True),
    hp=PPOHyperparameters(max_grad_norm=10.0, value_coefficient=1.0, huber_delta=10.0),
    run=RunConfig(num_seeds=5, total_steps=10_000_000, num_evaluations=100, chunks=100),
)
_ROBOT_SMALL = Args(  # Ours.
    env=None,
    policy=PolicyConfig(hidden_sizes=(64, 64), activation="tanh", initial_std=1.0, generate="actor"),
    ppo=PPOConfig(
        num_envs=16, num_steps=128, update_epochs=10, num_minibatches=32, normalize_values=True, eval_episodes=8
    ),
    hp=PPOHyperparameters(learning_rate=3e-4, entropy_coefficient=0.0),
    run=RunConfig(num_seeds=5, total_steps=100_000, num_evaluations=10, chunks=20),
)


@dataclass(frozen=True)
class Harl:
    """What HARL tunes per robot for its MAPPO."""

    learning_rate: float
    clip_epsilon: float
    update_epochs: int
    num_minibatches: int
    entropy_coefficient: float
    num_steps: int
    anneal_learning_rate: bool


def _robot(env_id: str, row: Harl, small: Mapping[str, Mapping[str, Any]]) -> dict[str, Args]:
    """A MaMuJoCo task at both scales. small: what the small one changes of `_ROBOT_SMALL`, fields by the name of the
    part that they are in; as many steps as take less than five minutes on two cores."""
    numbers = asdict(row)
    hp = {name: numbers.pop(name) for name in ("learning_rate", "clip_epsilon", "entropy_coefficient")}
    return {
        "paper": replace(changed(_ROBOT, ppo=numbers, hp=hp), env=envs_jax.make(env_id, obsk=None)),
        "small": replace(changed(_ROBOT_SMALL, **small), env=envs_jax.make(env_id, obsk=1, physics="fast")),
    }


def generated(scales: dict[str, Any], learning_rate: float) -> dict[str, Any]:
    """A robot's small settings for weights that an MLP generates, if it does: this learning rate but for the critic,
    whose weights are its own, and the initial scale that does not depend on the generator.

    A generated weight is a sum over 64 features, so a step of Adam moves it several times as far as the same step moves
    a weight of its own: at the others' rate all of Hopper's actors in MATD3 saturate in the first updates. What was
    tried on Walker2d is in docs/hypermarl_findings.md.
    """
    small = scales["small"]
    if small.policy.sharing != "hyper_mlp":
        return scales
    critic = small.hp.critic_learning_rate or small.hp.learning_rate
    hp = {"learning_rate": learning_rate, "critic_learning_rate": critic}
    return scales | {"small": changed(small, policy={"hypernet_init": "exact"}, hp=hp)}


ROBOTS: dict[str, Callable[[], dict[str, Args]]] = {
    "halfcheetah_2x3": lambda: _robot(
        "mamujoco/halfcheetah_2x3", Harl(5e-4, 0.05, 15, 1, 0.01, 200, False), {"run": {"total_steps": 150_000}}
    ),
    "hopper_3x1": lambda: _robot(
        "mamujoco/hopper_3x1", Harl(5e-4, 0.05, 10, 1, 0.0, 200, True), {"run": {"total_steps": 160_000}}
    ),
    # With deviations of 1, torques cost an ant 2 a step at first, twice what it has for standing: dying would pay.
    "ant_4x2": lambda: _robot(
        "mamujoco/ant_4x2",
        Harl(5e-4, 0.1, 5, 1, 0.0, 200, False),
        {"policy": {"initial_std": 0.366}, "run": {"total_steps": 32_000, "num_evaluations": 5}},
    ),
    "walker2d_2x3": lambda: _robot("mamujoco/walker2d_2x3", Harl(1e-3, 0.05, 5, 2, 0.0, 200, True), {}),
    # With 17 and 10 agents a gradient step takes longest: fewer of them. A humanoid's program compiles for minutes.
    "humanoid_17x1": lambda: _robot(
        "mamujoco/humanoid_17x1",
        Harl(5e-4, 0.1, 5, 1, 0.0, 100, True),
        {
            "ppo": {"num_minibatches": 8, "eval_episodes": 4},
            "run": {"num_seeds": 2, "total_steps": 30_000, "num_evaluations": 4},
        },
    ),
    # HARL has no MAPPO for the swimmer: the ant's settings.
    "swimmer_10x2": lambda: _robot(
        "mamujoco/manysegmentswimmer_10x2",
        Harl(5e-4, 0.1, 5, 1, 0.0, 200, False),
        {"ppo": {"num_minibatches": 8}, "run": {"total_steps": 48_000}},
    ),
}


@dataclass(frozen=True)
class Battle:
    """What the paper tunes per SMAX map and learner."""

    learning_rate: float
    hyper_learning_rate: float
    embedding_dim: int
    hypernet_hidden_sizes: tuple[int, ...]


# The authors' scripts, one per map and method.
BATTLES: dict[str, dict[str, Battle]] = {
    "2s3z": {"ippo": Battle(0.004, 0.004, 4, (32,)), "mappo": Battle(0.002, 0.002, 64, (16,))},
    "3s5z": {"ippo": Battle(0.004, 0.004, 64, (16,)), "mappo": Battle(0.002, 0.0003, 64, (16,))},
    "smacv2_10_units": {"ippo": Battle(0.001, 0.005, 4, (64,)), "mappo": Battle(0.0003, 0.0003, 64, (16,))},
    "smacv2_20_units": {"ippo": Battle(0.005, 0.005, 64, (64,)), "mappo": Battle(0.0003, 0.0003, 4, (64,))},
}


FEED_FORWARD = (*TASKS, *ROBOTS)
"""The tasks whose networks are not recurrent: all but SMAX."""


def _battle(name: str, learner: Literal["ippo", "mappo"], policy: PolicyConfig) -> dict[str, Args]:
    """A map of SMAX against its built-in enemy, at both scales.

    The authors' configuration files, which are JaxMARL's but for the learning rates. There one GRU serves actor and
    critic of IPPO, the head of networks that are not generated starts with gain 2, and an evaluation is 128 steps of 32
    environments; here an actor and a critic have a GRU each, the gain is sqrt 2, and an evaluation is one episode of
    each.
    """
    row = BATTLES[name][learner]
    hyper = policy.sharing.startswith("hyper")
    rules = {"see_enemy_actions": True, "walls_cause_death": True, "attack_mode": "closest"}
    paper = Args(
        env=envs_jax.make("jaxmarl/HeuristicEnemySMAX", scenario=name, **rules),
        policy=replace(
            policy,
            recurrent=True,
            recurrent_size=128,
            embedding_dim=row.embedding_dim,
            separate_embeddings=hyper and learner == "mappo",
            hypernet_hidden_sizes=row.hypernet_hidden_sizes,
        ),
        ppo=PPOConfig(
            num_envs=128,
            num_steps=128,
            update_epochs=4,
            num_minibatches=4,
            anneal_learning_rate=True,
            clip_critic_apart=learner == "mappo",
            eval_episodes=32,
        ),
        hp=PPOHyperparameters(
            learning_rate=row.hyper_learning_rate if hyper else row.learning_rate,
            clip_epsilon={"ippo": 0.05, "mappo": 0.2}[learner],
            entropy_coefficient={"ippo": 0.01, "mappo": 0.0}[learner],
            max_grad_norm=0.25,
        ),
        run=RunConfig(num_seeds=5, total_steps=10_000_000, num_evaluations=20, chunks=20),
    )
    small = replace(  # Ours.
        paper,
        policy=replace(paper.policy, recurrent_size=32),
        ppo=replace(paper.ppo, num_envs=16, num_steps=64, num_minibatches=2, eval_episodes=16),
        run=RunConfig(num_seeds=2, total_steps=500_000 // paper.env.num_agents, num_evaluations=5, chunks=5),
    )
    return {"paper": paper, "small": small}
