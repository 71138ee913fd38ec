"""Training speed of IPPO with many seeds in one program, beside JaxMARL's own IPPO scripts.

    python benchmarks/train_jaxmarl.py [--jaxmarl PATH] [--out results/benchmarks/train_jaxmarl.csv]

PATH is a checkout of FLAIROx/JaxMARL. `ippo_ff_mpe.py` and `ippo_rnn_smax.py` of its `baselines/IPPO` run as they are,
mapped over seeds in one jit; hydra, omegaconf and wandb, which they read settings with and log to, are replaced by
nothing. They need distrax (`pip install distrax tfp-nightly`: the released tensorflow-probability does not load with
this JAX).
Environments are JaxMARL's on both sides, from the checkout. Equal: numbers of environments, steps, epochs, minibatches
and updates, and the networks, unless the row says otherwise.

    mpe     MPE_simple_spread_v3, 3 agents, two layers of 64; the settings of JaxMARL's file.
    smax    HeuristicEnemySMAX, a dense layer, a GRU and a dense layer. In JaxMARL's script one GRU serves actor and
            critic, here each has its own: "two GRUs" is its script with a network like ours. Environments, steps and
            widths are smaller than in its file, for a CPU.

A timed call is a whole short run: parameters and environments are made, then `updates` updates; its time ends when all
that it returns is there and its callbacks have returned. Programs take turns; compile time is apart. Rates and ratios
are of the processor's time, which other work on the machine does not stretch as it does the clock's (both are in the
table): run it on one core, `taskset -c 1`, where the two are the same on an idle machine.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from peers import load_file, no_logging
from timing import Compiled, compile_once, spread, write_table

import envs_jax
from covey.experiment import seed_keys
from covey.learners.ppo import PPO, PPOConfig, PPOHyperparameters
from covey.policies import PolicyConfig
from covey.policies.actor_critic import SharingName

Task = Literal["mpe", "smax"]


@dataclass(frozen=True)
class Args:
    """Settings of the benchmark."""

    jaxmarl: Path | None = None
    """A checkout of FLAIROx/JaxMARL to measure in the same run."""
    tasks: tuple[Task, ...] = ("mpe", "smax")
    """Which environments."""
    seeds: tuple[int, ...] = (1, 8, 64)
    """Numbers of seeds in one program."""
    updates: int = 2
    """Updates per timed call."""
    repeats: int = 3
    """Timed calls of each program, after one to warm up."""
    map: str = "2s3z"
    """The map of SMAX."""
    out: Path = Path("results/benchmarks/train_jaxmarl.csv")
    """Table to write."""


class Sizes(NamedTuple):
    """What both sides have in common on a task."""

    envs: int
    steps: int
    epochs: int
    minibatches: int
    width: int
    recurrent: bool
    activation: Literal["relu", "tanh"]


SIZES: dict[Task, Sizes] = {
    "mpe": Sizes(16, 128, 4, 4, 64, False, "tanh"),
    "smax": Sizes(4, 32, 4, 2, 64, True, "relu"),
}
SMAX_RULES = {"see_enemy_actions": True, "walls_cause_death": True, "attack_mode": "closest"}

Run = Callable[[jax.Array], Any]


def ours(args: Args, task: Task, sharing: SharingName) -> tuple[Run, int]:
    """A run of one seed from its key, and the number of parameters."""
    sizes = SIZES[task]
    if task == "mpe":
        env = envs_jax.make("jaxmarl/MPE_simple_spread_v3")
    else:
        env = envs_jax.make("jaxmarl/HeuristicEnemySMAX", scenario=args.map, **SMAX_RULES)
    policy = PolicyConfig(
        sharing,
        hidden_sizes=(sizes.width, sizes.width),
        activation=sizes.activation,
        recurrent=sizes.recurrent,
        recurrent_size=sizes.width,
        embedding_dim=4,
        hypernet_hidden_sizes=(64,) if task == "mpe" else (32,),  # As on the paper's tasks of either kind.
    )
    config = PPOConfig(sizes.envs, sizes.steps, sizes.epochs, sizes.minibatches, anneal_learning_rate=True)
    ppo = PPO(env, policy, config, num_updates=args.updates)

    def run(key: jax.Array) -> Any:
        carry = ppo.init(key, PPOHyperparameters())
        return jax.lax.scan(lambda carry, _: ppo.update(carry), carry, None, args.updates)

    return run, ppo.actor_critic.count_parameters()


def jaxmarls(args: Args, task: Task, two_grus: bool = False) -> tuple[Run, int]:
    """The same by JaxMARL's script."""
    assert args.jaxmarl is not None
    sizes = SIZES[task]
    script = _load(args.jaxmarl / "baselines" / "IPPO" / ("ippo_ff_mpe.py" if task == "mpe" else "ippo_rnn_smax.py"))
    config: dict[str, Any] = {
        "ENV_NAME": "MPE_simple_spread_v3", "ENV_KWARGS": {}, "NUM_ENVS": sizes.envs, "NUM_STEPS": sizes.steps,
        "TOTAL_TIMESTEPS": sizes.envs * sizes.steps * args.updates, "UPDATE_EPOCHS": sizes.epochs,
        "NUM_MINIBATCHES": sizes.minibatches, "LR": 5e-4, "GAMMA": 0.99, "GAE_LAMBDA": 0.95, "CLIP_EPS": 0.2,
        "ENT_COEF": 0.01, "VF_COEF": 0.5, "MAX_GRAD_NORM": 0.5, "ACTIVATION": sizes.activation, "ANNEAL_LR": True,
    }  # fmt: skip
    if task == "smax":
        config |= {"MAP_NAME": args.map, "ENV_KWARGS": SMAX_RULES, "SCALE_CLIP_EPS": False}
        config |= {"FC_DIM_SIZE": sizes.width, "GRU_HIDDEN_DIM": sizes.width * (2 if two_grus else 1)}
        if two_grus:
            script.ActorCriticRNN = _two_grus(script.ScannedRNN, sizes.width)
    run = script.make_train(config)
    state = jax.eval_shape(run, jax.random.PRNGKey(0))["runner_state"]
    while not hasattr(state, "params"):  # In the one script the train state is the first of a tuple, in the other of
        state = state[0]  # a tuple in a tuple.
    # Its scripts want keys of the old kind.
    return lambda key: run(jax.random.key_data(key)), sum(leaf.size for leaf in jax.tree.leaves(state.params))


def _load(path: Path) -> Any:
    """One of JaxMARL's training scripts, with what it logs to and reads settings with replaced by nothing."""
    no_logging()
    try:
        return load_file(path.stem, path)
    except ModuleNotFoundError as error:
        sys.exit(f"error: JaxMARL's script needs a package that is not here: pip install {error.name}")


def _two_grus(recurrence: Any, width: int) -> Any:
    """Our recurrent networks for JaxMARL's script, in Flax: actor and critic apart, side by side in its one memory."""
    import distrax  # pyright: ignore[reportMissingImports]
    import flax.linen as nn

    def dense(size: int, gain: float) -> Any:
        return nn.Dense(size, kernel_init=nn.initializers.orthogonal(gain))

    class TwoGRUs(nn.Module):
        action_dim: Any
        config: Any

        @nn.compact
        def __call__(self, memory: jax.Array, x: Any) -> Any:
            obs, dones, available = x

            def tower(memory: jax.Array, outputs: int, gain: float) -> tuple[jax.Array, jax.Array]:
                memory, y = recurrence()(memory, (nn.relu(dense(width, 2**0.5)(obs)), dones))
                return memory, dense(outputs, gain)(nn.relu(dense(width, 2**0.5)(y)))

            actor, critic = jnp.split(memory, 2, axis=-1)
            actor, logits = tower(actor, self.action_dim, 0.01)
            critic, value = tower(critic, 1, 1.0)
            logits = logits - 1e10 * (1 - available)
            return jnp.concatenate([actor, critic], axis=-1), distrax.Categorical(logits=logits), value[..., 0]

    return TwoGRUs


def builders(args: Args, task: Task) -> Iterator[tuple[str, Callable[[], tuple[Run, int]]]]:
    """Programs by name; the first one of JaxMARL's is what ratios are to."""
    if args.jaxmarl is not None:
        yield "JaxMARL", lambda: jaxmarls(args, task)
        if task == "smax":
            yield "JaxMARL, two GRUs", lambda: jaxmarls(args, task, two_grus=True)
    yield "covey fups", lambda: ours(args, task, "fups")
    yield "covey hyper_mlp", lambda: ours(args, task, "hyper_mlp")


def compare(args: Args, task: Task, num_seeds: int) -> Iterator[dict[str, Any]]:
    """A row for each program."""
    sizes = SIZES[task]
    programs: dict[str, tuple[Compiled, int, float]] = {}
    for name, build in builders(args, task):
        run, parameters = build()
        began = time.process_time()
        program = compile_once(jax.vmap(run), seed_keys(0, num_seeds))
        programs[name] = program, parameters, time.process_time() - began
        print(f"{task} {name}, {num_seeds} seeds: compiled in {programs[name][-1]:.0f} s", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in programs}  # of the processor
    clock: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(args.repeats + 1):
        keys = seed_keys(1000 * turn, num_seeds)
        for name, (program, *_) in programs.items():
            clock_began, began = time.perf_counter(), time.process_time()
            out = jax.block_until_ready(program.call(keys))
            jax.effects_barrier()
            if turn > 0:  # the first call warms up
                clock[name].append(time.perf_counter() - clock_began)
                seconds[name].append(time.process_time() - began)
            numbers = [leaf for leaf in jax.tree.leaves(out) if jnp.issubdtype(leaf.dtype, jnp.floating)]
            if not any(np.asarray(leaf).any() for leaf in numbers):
                raise RuntimeError(f"{name} returned nothing but zeros")
    for name, (program, parameters, compiling) in programs.items():
        median = statistics.median(seconds[name])
        row: dict[str, Any] = {"task": task, "program": name, "parameters": parameters, "seeds": num_seeds}
        row |= {"envs": sizes.envs, "rollout": sizes.steps, "updates": args.updates}
        row |= {"env_steps_per_s": round(num_seeds * args.updates * sizes.envs * sizes.steps / median)}
        for peer in ("JaxMARL", "JaxMARL, two GRUs"):
            times = seconds.get(peer)
            row[f"times_{peer}"] = "" if times is None else round(statistics.median(times) / median, 2)
        row |= {"cpu_ms": round(1e3 * median, 1)} | spread(clock[name])
        row |= {"compile_s": round(compiling, 1)}
        row |= {"temporary_mib": round(program.temporary_bytes / 2**20)}
        yield row
    jax.clear_caches()


def main(args: Args) -> None:
    if args.jaxmarl is not None:
        if not (args.jaxmarl / "baselines" / "IPPO").is_dir():
            sys.exit(f"error: --jaxmarl is {args.jaxmarl}; allowed: a checkout of FLAIROx/JaxMARL")
        sys.path.insert(0, str(args.jaxmarl))
    rows = (row for task in args.tasks for num_seeds in args.seeds for row in compare(args, task, num_seeds))
    write_table(args.out, rows, " ".join(["python", *sys.argv]).replace(str(args.jaxmarl), "PATH"))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
