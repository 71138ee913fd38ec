"""Training speed of IPPO on Cleanup beside SocialJax's own IPPO, and how many seeds fit into one program.

    python benchmarks/train_ssd.py [--socialjax PATH] [--out results/benchmarks/train_ssd.csv]

Whole updates (environments, networks, gradient steps) at equal agents, environments, rollout, epochs and minibatches,
all agents sharing one network, programs taking turns within one process, compile time apart. PATH is a checkout of
cooperativex/SocialJax, whose `algorithms/IPPO/ippo_cnn_cleanup.py` runs as it is (it needs `pip install distrax`; its
logger and its configuration reader are stubbed). Networks:

    light   a dense layer on each cell, one on all cells, one hidden layer; actor and critic apart. SocialJax's script
            is handed the same in Flax, on its one-hot observations.
    conv    SocialJax's own three convolutions and a dense layer, which its actor and critic share; beside the nearest
            that there is here: actor and critic apart, no padding.

The second table runs each number of seeds in a process of its own: the bytes that XLA plans, and the peak that the
process reached beyond what it held before the first update (Linux only).
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro
from peers import no_logging
from timing import Compiled, compile_once, spread, write_table

import envs_jax
from covey.experiment import seed_keys
from covey.learners.ppo import PPO, PPOConfig, PPOHyperparameters
from covey.policies import PolicyConfig

Network = Literal["light", "conv"]


@dataclass(frozen=True)
class Args:
    """Settings of the benchmark."""

    networks: tuple[Network, ...] = ("light",)
    """Which networks; the convolutions take minutes per call on a CPU."""
    envs: int = 64
    """Environments in parallel."""
    steps: int = 100
    """Steps of each between updates."""
    epochs: int = 2
    """Passes over a rollout."""
    minibatches: int = 4
    """Minibatches per pass."""
    updates: int = 2
    """Updates per timed call."""
    repeats: int = 5
    """Timed calls of each program."""
    seeds: tuple[int, ...] = (1, 4, 16, 64)
    """Numbers of seeds of the second table."""
    socialjax: Path | None = None
    """A checkout of cooperativex/SocialJax to measure in the same run."""
    out: Path = Path("results/benchmarks/train_ssd.csv")
    """Table to write; that of seeds goes beside it, with _seeds in its name."""


def learner(args: Args, network: Network) -> PPO:
    """Our IPPO on Cleanup."""
    policy = PolicyConfig(sharing="fups", hidden_sizes=(64,), encoder_channels=8, encoder_size=64)
    if network == "conv":
        policy = dataclasses.replace(policy, encoder_channels=32, conv_channels=(32, 32, 32))
    config = PPOConfig(
        num_envs=args.envs, num_steps=args.steps, update_epochs=args.epochs, num_minibatches=args.minibatches
    )
    return PPO(envs_jax.make("cleanup", max_steps=1000), policy, config)


def ours(args: Args, network: Network) -> tuple[Callable[[jax.Array], Any], int]:
    """A run of `updates` updates from a key, and the number of parameters."""
    ppo = learner(args, network)

    def run(key: jax.Array) -> Any:
        carry = ppo.init(key, PPOHyperparameters())
        return jax.lax.scan(lambda carry, _: ppo.update(carry), carry, None, args.updates)

    return run, ppo.actor_critic.count_parameters()


def socialjaxs(args: Args, network: Network) -> tuple[Callable[[jax.Array], Any], int]:
    """The same by SocialJax's script."""
    script = _load_script()
    if network == "light":
        script.ActorCritic = _light()
    else:
        script.ActorCritic = sys.modules["algorithms.utils"].ActorCritic
    config = {
        "ENV_NAME": "clean_up",
        "ENV_KWARGS": {"num_agents": 7, "num_inner_steps": 1000, "cnn": True, "jit": True, "shared_rewards": False},
        "NUM_ENVS": args.envs,
        "NUM_STEPS": args.steps,
        "TOTAL_TIMESTEPS": args.envs * args.steps * args.updates,
        "UPDATE_EPOCHS": args.epochs,
        "NUM_MINIBATCHES": args.minibatches,
        "PARAMETER_SHARING": True,
        "ANNEAL_LR": False,
        "LR": 5e-4,
        "GAMMA": 0.99,
        "GAE_LAMBDA": 0.95,
        "CLIP_EPS": 0.2,
        "ENT_COEF": 0.01,
        "VF_COEF": 0.5,
        "MAX_GRAD_NORM": 0.5,
        "ACTIVATION": "relu",
        "REW_SHAPING_HORIZON": 2.5e6,
        "SHAPING_BEGIN": 1e6,
    }
    run = script.make_train(config)
    state = jax.eval_shape(run, jax.random.PRNGKey(0))["runner_state"][0]
    # Its script wants keys of the old kind.
    return lambda key: run(jax.random.key_data(key)), sum(leaf.size for leaf in jax.tree.leaves(state.params))


def _load_script() -> Any:
    """SocialJax's training script, with what it logs to and reads settings with replaced by nothing."""
    no_logging()
    import importlib

    try:
        return importlib.import_module("algorithms.IPPO.ippo_cnn_cleanup")
    except ModuleNotFoundError as error:
        sys.exit(f"error: SocialJax's script needs a package that is not here: pip install {error.name}")


def _light() -> Any:
    """Our light network for SocialJax's script, in Flax."""
    import distrax  # pyright: ignore[reportMissingImports]
    import flax.linen as nn

    class Light(nn.Module):
        action_dim: Any
        activation: str = "relu"

        @nn.compact
        def __call__(self, x: jax.Array) -> Any:
            def tower(outputs: int, gain: float) -> jax.Array:
                y, start = x, nn.initializers.orthogonal
                y = nn.relu(nn.Dense(8, kernel_init=start(2**0.5))(y))
                for size in (64, 64):
                    y = nn.relu(nn.Dense(size, kernel_init=start(2**0.5))(y.reshape(len(y), -1)))
                return nn.Dense(outputs, kernel_init=start(gain))(y)

            return distrax.Categorical(logits=tower(self.action_dim, 0.01)), tower(1, 1.0)[:, 0]

    return Light


def compare(args: Args, network: Network) -> Iterator[dict[str, Any]]:
    """A row for each program."""
    builders = {"covey": ours} | ({"SocialJax": socialjaxs} if args.socialjax else {})
    programs: dict[str, tuple[Compiled, int]] = {}
    for name, build in builders.items():
        run, parameters = build(args, network)
        programs[name] = compile_once(run, jax.random.key(0)), parameters
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(args.repeats + 1):
        for name, (program, _) in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(program.call(jax.random.key(turn)))
            if turn > 0:  # the first call warms up
                seconds[name].append(time.perf_counter() - began)
    for name, (program, parameters) in programs.items():
        median = statistics.median(seconds[name])
        row = {"program": name, "network": network, "parameters": parameters, "envs": args.envs, "rollout": args.steps}
        row |= {"env_steps_per_s": round(args.updates * args.envs * args.steps / median)}
        row |= {"covey_to_this": round(median / statistics.median(seconds["covey"]), 2)} | spread(seconds[name])
        row |= {"compile_s": round(program.compile_seconds, 1), "temporary_mib": round(program.temporary_bytes / 2**20)}
        yield row


def resident(line: str) -> int:
    """Bytes of this process in memory, from Linux's account of it: VmRSS now, VmHWM at the peak."""
    status = dict(row.split(":", 1) for row in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status[line].split()[0])


def measure_seeds(args: Args, num_seeds: int) -> dict[str, Any]:
    """The row of one number of seeds, in this process."""
    ppo = learner(args, "light")
    carries = jax.jit(jax.vmap(ppo.init, (0, None)))(seed_keys(0, num_seeds), PPOHyperparameters())
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(carries) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))
    program = compile_once(jax.vmap(ppo.update), carries)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew; compiling took more than running
    before = resident("VmRSS")
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(program.call(carries))
        seconds.append(time.perf_counter() - began)
    peak = resident("VmHWM") - before
    steps = num_seeds * ppo.steps_per_update
    return {
        "seeds": num_seeds,
        "env_steps_per_s": round(steps / min(seconds[1:])),
        "carry_mib": round(held / 2**20, 1),
        "planned_mib": round((program.temporary_bytes + held) / 2**20, 1),
        "measured_mib": round(peak / 2**20, 1),
        "compile_s": round(program.compile_seconds, 1),
    }


def apart(args: Args, num_seeds: int) -> dict[str, Any]:
    """The row of one number of seeds, measured in a process of its own."""
    child = [sys.executable, __file__, "--seeds", str(num_seeds), "--envs", str(args.envs)]
    child += ["--steps", str(args.steps), "--networks", "--out", "-"]
    return json.loads(subprocess.run(child, check=True, capture_output=True, text=True).stdout)


def main(args: Args) -> None:
    if args.socialjax is not None:
        if not (args.socialjax / "algorithms" / "IPPO").is_dir():
            sys.exit(f"error: --socialjax is {args.socialjax}; allowed: a checkout of cooperativex/SocialJax")
        sys.path.insert(0, str(args.socialjax))
    command = " ".join(["python", *sys.argv]).replace(str(args.socialjax), "PATH")
    write_table(args.out, (row for network in args.networks for row in compare(args, network)), command)
    rows = (apart(args, num_seeds) for num_seeds in args.seeds)
    write_table(args.out.with_stem(args.out.stem + "_seeds"), rows, command)


if __name__ == "__main__":
    settings = tyro.cli(Args, description=__doc__)
    if settings.out == Path("-"):  # the child that `main` starts
        print(json.dumps(measure_seeds(settings, settings.seeds[0])))
    else:
        main(settings)
