"""Time and memory of PPO's networks for each sharing scheme: against the number of agents, on SMAX and on robots.

    python benchmarks/sharing.py
    python benchmarks/sharing.py --agents --presets walker2d_2x3 halfcheetah_2x3 ant_4x2 swimmer_10x2 humanoid_17x1 \\
        --out results/benchmarks/sharing_robots.csv

One seed, made-up rollouts. `forward` is one step of actors and critics for all environments, weights generated in it.
The other times are of one PPO update's learning phase, without the rollout: with 4 to 512 agents that of Dispersion
(4 epochs of 2 minibatches over 16 environments x 128 steps, networks of 64-64, 16 observations, 9 actions), and that
of MAPPO's presets: SMAX at small scale (GRUs), robots at the paper's (HARL's networks). `authors` is hyper_mlp computed
as in the HyperMARL authors' code: every agent's network runs on all agents' samples, then each sample's own output is
picked. All schemes take turns within one process; ratios are of medians. `optimiser_ms` is the time of clipping and
Adam alone for one gradient step, times their number.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from timing import compile_once, spread, time_calls, write_table

from algos.tasks import BATTLES, presets
from covey.learners import gradients
from covey.learners.ppo import PPO, Batch, PPOCarry, PPOConfig, PPOHyperparameters
from covey.policies import PolicyConfig
from covey.policies.hypernet import Hypernetwork
from envs_jax.base import MultiAgentEnv, State, flat_box, start_clock
from envs_jax.spaces import Discrete


@dataclass(frozen=True)
class Sizes(MultiAgentEnv):
    """Stands in for an environment where only the sizes of observations and actions matter."""

    num_agents: int = 4
    max_steps: int | None = 100

    def init(self, key):
        return State(**start_clock())

    def observation_space(self, agent=None):
        return flat_box(16)

    def action_space(self, agent=None):
        return Discrete(9)


class AuthorsHypernetwork(Hypernetwork):
    """The forward pass of the authors' code: n networks on the whole batch, then a gather."""

    def unroll(self, network, weights, x, memory, reset):
        time, agents, batch, size = x.shape
        mixed = x.reshape(time, 1, agents * batch, size)
        y, _ = super().unroll(network, weights, mixed, memory, reset)
        y = y.reshape(time, agents, agents, batch, -1)
        own = jnp.arange(agents)
        return y[:, own, own], memory


@dataclass(frozen=True)
class Args:
    """Settings of the benchmark."""

    agents: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256, 512)
    """Numbers of agents, at Dispersion's sizes."""
    authors_up_to: int = 32
    """Largest number of agents for the authors' scheme, whose cost grows with the square."""
    presets: tuple[str, ...] = ("2s3z", "smacv2_20_units")
    """Presets of MAPPO to measure as well. Robots in a process of their own, since they set XLA's flags."""
    repeats: int = 5
    """Timed calls of each program."""
    out: Path = Path("results/benchmarks/sharing.csv")
    """Table to write."""


SCHEMES = ("fups_id", "nops", "hyper_linear", "hyper_mlp")


def of_sizes(sharing: str, num_agents: int) -> tuple[PPO, PPOHyperparameters]:
    """IPPO at Dispersion's sizes."""
    config = PolicyConfig(sharing="hyper_mlp" if sharing == "authors" else sharing)  # type: ignore[arg-type]
    learner = PPO(Sizes(num_agents), config, PPOConfig())
    if sharing == "authors":
        networks = learner.actor_critic
        object.__setattr__(networks, "scheme", AuthorsHypernetwork(**vars(networks.scheme)))
    return learner, PPOHyperparameters()


def of_preset(sharing: str, preset: str) -> tuple[PPO, PPOHyperparameters]:
    """MAPPO of a preset."""
    policy = {"embedding_dim": 8, "hypernet_hidden_sizes": (64,)} if sharing.startswith("hyper") else {}
    args = presets("mappo", sharing=sharing, **policy)[preset]["small" if preset in BATTLES else "paper"]
    return PPO(args.env, args.policy, args.ppo, centralised_critic=True, num_updates=1000), args.hp


def start(learner: PPO, hp: PPOHyperparameters) -> PPOCarry:
    """The carry as training starts, but for the environments' states, which learning does not need."""
    return jax.jit(lambda key: replace(learner.init(key, hp), env_state=None))(jax.random.key(0))


def make_batch(learner: PPO, key: jax.Array) -> Batch:
    """A made-up rollout [T, N, E, ...]."""
    networks, envs = learner.actor_critic, learner.config.num_envs
    time, agents = learner.config.num_steps, learner.env.num_agents
    shape = (time, agents, envs)
    keys = jax.random.split(key, 7)
    obs = jax.random.normal(keys[0], (*shape, networks.obs_size))
    global_size = networks.global_size
    if networks.continuous:
        action = 0.1 * jax.random.normal(keys[1], (*shape, networks.num_outputs))
    else:
        action = jax.random.randint(keys[1], shape, 0, networks.num_outputs)
    noise = [jax.random.normal(k, shape) for k in keys[2:6]]
    return Batch(
        obs=obs,
        global_state=None if global_size is None else jax.random.normal(keys[6], (time, 1, envs, global_size)),
        mask=jnp.ones((*shape, networks.num_outputs), bool) if learner._masks_actions else None,
        reset=jnp.zeros((time, 1, envs), bool),
        action=action,
        log_prob=-2.2 + 0.1 * noise[0],
        value=noise[1],
        advantage=noise[2],
        target=noise[3],
        memory=jax.tree.map(lambda m: m[None], networks.start(envs)),
    )


def rows_of(task: str, learners: dict[str, tuple[PPO, PPOHyperparameters]], repeats: int) -> Iterator[dict[str, Any]]:
    """A row for each scheme of one task."""
    programs = {}
    for sharing, (learner, hp) in learners.items():
        carry, batch = start(learner, hp), make_batch(learner, jax.random.key(1))
        step = jax.tree.map(lambda x: x[:1], batch)

        def forward(params: Any, step: Batch, networks: Any = learner.actor_critic) -> Any:
            weights = networks.weights(params)
            seen = step.obs if step.global_state is None else step.global_state
            outputs = networks.policy(weights, step.obs, step.memory[0][0], step.reset)
            return outputs, networks.value(weights, seen, step.memory[1][0], step.reset)

        def optimiser(carry: PPOCarry, learner: PPO = learner) -> Any:
            separate = learner.actor_critic.separate
            grads, _ = gradients.clip(carry.params, carry.hp.max_grad_norm, separate, learner.env.num_agents)
            updates, state = gradients.adam(carry.hp).update(grads, carry.optimizer)
            return jax.tree.map(lambda p, u: p - 1e-3 * u, carry.params, updates), state

        inputs = {
            "forward": (carry.params, step),
            "learn": (carry, batch, jax.random.key(2)),
            "optimise": (carry,),
        }
        functions = {"forward": forward, "learn": learner._optimise, "optimise": optimiser}
        programs[sharing] = {
            what: (compile_once(function, *inputs[what]), inputs[what]) for what, function in functions.items()
        }
    seconds = {(sharing, what): [] for sharing in programs for what in ("forward", "learn", "optimise")}
    for _ in range(repeats):  # In turn, so that a slow moment of the machine hits all alike.
        for sharing, what in seconds:
            program, given = programs[sharing][what]
            seconds[sharing, what] += time_calls(lambda p=program, i=given: p.call(*i), 1)
    median = {key: statistics.median(values) for key, values in seconds.items()}
    for sharing, (learner, _) in learners.items():
        learn = programs[sharing]["learn"][0]
        steps = learner.config.update_epochs * learner.config.num_minibatches
        row = {"task": task, "agents": learner.env.num_agents, "sharing": sharing}
        row |= {"parameters": learner.actor_critic.count_parameters()}
        row |= {"forward_ms": round(1e3 * median[sharing, "forward"], 3)}
        row |= {"forward_to_nops": round(median[sharing, "forward"] / median["nops", "forward"], 3)}
        row |= spread(seconds[sharing, "learn"])
        row |= {
            "to_nops": round(median[sharing, "learn"] / median["nops", "learn"], 3),
            "optimiser_ms": round(1e3 * steps * median[sharing, "optimise"], 3),
            "temporary_mib": round(learn.temporary_bytes / 2**20, 1),
            "compile_s": round(learn.compile_seconds, 2),
            "authors_to_this": "",
        }
        if "authors" in learners:
            row["authors_to_this"] = round(median["authors", "learn"] / median[sharing, "learn"], 2)
        yield row


def rows(args: Args) -> Iterator[dict[str, Any]]:
    for num_agents in args.agents:
        schemes = (*SCHEMES, "authors") if num_agents <= args.authors_up_to else SCHEMES
        learners = {sharing: of_sizes(sharing, num_agents) for sharing in schemes}
        yield from rows_of("sizes of dispersion", learners, args.repeats)
    for preset in args.presets:
        yield from rows_of(preset, {sharing: of_preset(sharing, preset) for sharing in SCHEMES}, args.repeats)


if __name__ == "__main__":
    args = tyro.cli(Args, description=__doc__)
    write_table(args.out, rows(args), " ".join(["python", *sys.argv]))
