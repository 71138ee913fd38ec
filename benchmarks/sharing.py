"""Time and memory of PPO's gradient steps for each sharing scheme, against the number of agents.

    python benchmarks/sharing.py --out results/benchmarks/sharing.csv

One PPO update's learning phase (4 epochs of 2 minibatches over 16 environments x 128 steps, networks of 64-64, 16
observations, 9 actions: the Dispersion settings), without the rollout, for one seed. `authors` is hyper_mlp computed as
in the HyperMARL authors' code: every agent's network runs on all agents' samples, then each sample's own output is
picked. All schemes take turns within one process; ratios are of medians. `optimiser_ms` is the time of clipping and
Adam alone for one gradient step, times their number.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import tyro
from timing import compile_once, spread, time_calls, write_table

from covey.learners import gradients
from covey.learners.ppo import PPO, Batch, PPOConfig, PPOHyperparameters
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

    agents: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Numbers of agents."""
    authors_up_to: int = 32
    """Largest number of agents for the authors' scheme, whose cost grows with the square."""
    repeats: int = 7
    """Timed calls of each program."""
    out: Path = Path("results/benchmarks/sharing.csv")
    """Table to write."""


def make_learner(sharing: str, num_agents: int) -> PPO:
    config = PolicyConfig(sharing="hyper_mlp" if sharing == "authors" else sharing)  # type: ignore[arg-type]
    learner = PPO(Sizes(num_agents), config, PPOConfig())
    if sharing == "authors":
        networks = learner.actor_critic
        object.__setattr__(networks, "scheme", AuthorsHypernetwork(**vars(networks.scheme)))
    return learner


def make_batch(learner: PPO, key: jax.Array) -> Batch:
    """A made-up rollout [T, N, E, ...]."""
    time, agents, envs = learner.config.num_steps, learner.env.num_agents, learner.config.num_envs
    shape = (time, agents, envs)
    keys = jax.random.split(key, 4)
    noise = [jax.random.normal(k, shape) for k in keys]
    return Batch(
        obs=jax.random.normal(keys[0], (*shape, 16)),
        global_state=None,
        mask=None,
        reset=jnp.zeros((time, 1, envs), bool),
        action=jax.random.randint(keys[1], shape, 0, 9),
        log_prob=-2.2 + 0.1 * noise[0],
        value=noise[1],
        advantage=noise[2],
        target=noise[3],
        memory=jax.tree.map(lambda m: m[None], learner.actor_critic.start(envs)),
    )


def main(args: Args) -> None:
    rows = []
    schemes = ("fups_id", "nops", "hyper_linear", "hyper_mlp", "authors")
    hp = PPOHyperparameters()
    for num_agents in args.agents:
        programs = {}
        for sharing in schemes:
            if sharing == "authors" and num_agents > args.authors_up_to:
                continue
            learner = make_learner(sharing, num_agents)
            carry = jax.jit(learner.init)(jax.random.key(0), hp)
            batch = make_batch(learner, jax.random.key(1))

            def optimiser(carry, learner=learner):
                scheme = learner.actor_critic.scheme
                grads, _ = gradients.clip(carry.params, carry.hp.max_grad_norm, scheme, learner.env.num_agents)
                updates, state = gradients.adam(carry.hp).update(grads, carry.optimizer)
                return jax.tree.map(lambda p, u: p - 1e-3 * u, carry.params, updates), state

            programs[sharing] = (
                compile_once(learner._optimise, carry, batch, jax.random.key(2)),
                compile_once(optimiser, carry),
                (carry, batch, jax.random.key(2)),
                learner.actor_critic.count_parameters(),
            )
        seconds = {sharing: [] for sharing in programs}
        for _ in range(args.repeats):  # In turn, so that a slow moment of the machine hits all alike.
            for sharing, (program, _, inputs, _) in programs.items():
                seconds[sharing] += time_calls(lambda p=program, i=inputs: p.call(*i), 1)
        nops = statistics.median(seconds["nops"])
        for sharing, (program, optimiser, inputs, parameters) in programs.items():
            steps = 8
            alone = statistics.median(time_calls(lambda o=optimiser, i=inputs: o.call(i[0]), args.repeats)) * steps
            median = statistics.median(seconds[sharing])
            row = {"agents": num_agents, "sharing": sharing, "parameters": parameters} | spread(seconds[sharing])
            row |= {
                "to_nops": round(median / nops, 3),
                "optimiser_ms": round(1e3 * alone, 3),
                "temporary_mib": round(program.temporary_bytes / 2**20, 1),
                "compile_s": round(program.compile_seconds, 2),
            }
            if "authors" in seconds:
                row["authors_to_this"] = round(statistics.median(seconds["authors"]) / median, 2)
            else:
                row["authors_to_this"] = ""
            rows.append(row)
            print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    write_table(args.out, rows, " ".join(["python", *sys.argv]))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
