"""Random-action speed of the robots, beside Gymnasium-Robotics' MaMuJoCo and C MuJoCo's threaded `rollout`.

    python benchmarks/mamujoco.py [--robots hopper ant] [--gymnasium-robotics PYTHON] [--mabrax PYTHON] [--devices 2]
        [--out FILE]

Ours: auto-reset on, every observation read (added up), actions and keys of a whole call drawn at its start, compile
time apart, states kept from call to call after a warm-up, so that robots lie and tumble as they do under random
actions. Programs of a robot take turns within one process. PYTHON is an interpreter with gymnasium-robotics; its
processes step, draw no pictures and reset where an episode ends. `rollout` gives states only: no observations, no
rewards, no resets, with the options that Gymnasium has. One environment step is `frame_skip` physics steps.

The other PYTHON is one with jaxmarl and brax (`pip install jaxmarl brax`), for MABrax's five robots: Brax's own
physics, which is not MuJoCo's, and its partitions. It steps as JaxMARL's scripts do, in one program like ours.

On a CPU with few cores a step of all environments takes one core (see `envs_jax.mamujoco.xla`). With `--devices` the
CPU counts as so many devices, and each has its share of the environments: rows named `fast, 2 devices`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from timing import compile_once, spread, write_table

import envs_jax
from envs_jax.mamujoco.ids import NAMED

SCENARIOS = {
    "halfcheetah": "HalfCheetah",
    "ant": "Ant",
    "hopper": "Hopper",
    "walker2d": "Walker2d",
    "swimmer": "Swimmer",
    "humanoid": "Humanoid",
    "humanoidstandup": "HumanoidStandup",
    "reacher": "Reacher",
    "invertedpendulum": "InvertedPendulum",
    "inverteddoublependulum": "InvertedDoublePendulum",
    "coupledhalfcheetah": "CoupledHalfCheetah",
    "manysegmentswimmer": "ManySegmentSwimmer",
    "manysegmentant": "ManySegmentAnt",
}
"""Our robots, and MaMuJoCo's scenarios."""

THEIRS = """
import json, sys, time
import numpy as np
from gymnasium_robotics import mamujoco_v1
scenario, conf, windows, seconds, seed = json.loads(sys.argv[1])
settings = {"agent_obsk": None} if conf is None else {"agent_obsk": 1}
env = mamujoco_v1.parallel_env(scenario=scenario, agent_conf=conf, **settings)
rng = np.random.default_rng(seed)
env.reset(seed=seed)
spaces = {agent: env.action_space(agent) for agent in env.possible_agents}
draw = lambda: {agent: rng.uniform(s.low, s.high).astype(s.dtype) for agent, s in spaces.items()}
actions = [draw() for _ in range(1000)]
steps = 0
def window(seconds):
    global steps
    began, first = time.perf_counter(), steps
    while (now := time.perf_counter()) - began < seconds:
        *_, terminated, truncated, _ = env.step(actions[steps % 1000])
        steps += 1
        if any(terminated.values()) or any(truncated.values()):
            env.reset()
    return (now - began) / (steps - first)
window(0.3)
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps([window(seconds) for _ in range(windows)]), flush=True)
"""
"""What an interpreter with gymnasium-robotics runs: it says that it is ready, waits, and gives seconds per step."""

MABRAX = {
    "halfcheetah": "halfcheetah_6x1",
    "ant": "ant_4x2",
    "hopper": "hopper_3x1",
    "walker2d": "walker2d_2x3",
    "humanoid": "humanoid_9|8",
}
"""Our robots, and MABrax's ids."""

BRAX = """
import json, sys, time
import jax, jax.numpy as jnp
import jaxmarl
name, num_envs, steps, calls = json.loads(sys.argv[1])
env = jaxmarl.make(name)
key = jax.random.key(0)
_, state = jax.jit(jax.vmap(env.reset))(jax.random.split(key, num_envs))
spaces = [env.action_space(agent) for agent in env.agents]
def run(key, state):
    def draw(key, s):
        return jax.random.uniform(key, (steps, num_envs, *s.shape), jnp.float32, s.low, s.high)
    key_act, key_step = jax.random.split(key)
    keys = jax.random.split(key_act, len(spaces))
    actions = {agent: draw(k, s) for agent, k, s in zip(env.agents, keys, spaces)}
    def step(carry, xs):
        state, total = carry
        obs, state, reward, _, _ = jax.vmap(env.step)(xs[0], state, xs[1])
        total = total + sum(jnp.sum(obs[agent]) + jnp.sum(reward[agent]) for agent in env.agents)
        return (state, total), None
    keys = jax.random.split(key_step, (steps, num_envs))
    return jax.lax.scan(step, (state, jnp.zeros(())), (keys, actions))[0]
began = time.perf_counter()
compiled = jax.jit(run).lower(key, state).compile()
compile_seconds = time.perf_counter() - began
def call():
    global state, key
    key, now = jax.random.split(key)
    began = time.perf_counter()
    state, _ = jax.block_until_ready(compiled(now, state))
    return time.perf_counter() - began
for _ in range(-(-25 // steps)):
    call()
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps([compile_seconds, *(call() for _ in range(calls))]), flush=True)
"""
"""What an interpreter with MABrax runs: likewise, and gives the seconds of compiling and of each call."""


@dataclass(frozen=True)
class Args:
    """Settings of the benchmark."""

    robots: tuple[str, ...] = tuple(NAMED)
    """Robots, each with its first partition."""
    presets: tuple[str, ...] = ("fast", "faithful")
    """Physics presets."""
    envs: tuple[int, ...] = (1, 64, 1024)
    """Numbers of environments in parallel."""
    env_steps: int = 4096
    """Environment steps per call, of all environments together; from 4 to 200 steps of each."""
    warmup: int = 25
    """Steps of each environment before timing."""
    devices: int = 1
    """Devices to share the environments between, beside one of them alone; more than one makes a CPU count as so
    many."""
    repeats: int = 5
    """Timed calls of each program."""
    gymnasium_robotics: Path | None = None
    """An interpreter in whose environment gymnasium-robotics is installed."""
    mabrax: Path | None = None
    """An interpreter in whose environment jaxmarl and brax are installed."""
    seconds: float = 2.0
    """Seconds of each of the `repeats` timed windows of Gymnasium-Robotics."""
    out: Path = Path("results/benchmarks/mamujoco.csv")
    """Table to write."""

    def __post_init__(self) -> None:
        for name in self.robots:
            if name not in NAMED:
                raise ValueError(f"robots holds '{name}'; allowed: {', '.join(NAMED)}")
        if self.devices < 1 or any(n > 1 and n % self.devices for n in self.envs):
            raise ValueError(f"devices is {self.devices}; allowed: a divisor of all numbers of environments but 1")


def steps_per_call(args: Args, num_envs: int) -> int:
    """Steps of each of `num_envs` environments in one call."""
    return min(max(args.env_steps // num_envs, 4), 200)


def ours(env: Any, num_envs: int, steps: int) -> Callable[..., Any]:
    """A loop of `steps` steps of `num_envs` environments: (key, states) to (states, sum of all that was seen)."""

    def run(key: jax.Array, state: Any) -> Any:
        key_act, key_step = jax.random.split(key)
        space = env.action_space()
        shape = (steps, num_envs, env.num_agents, *space.shape)
        low, high = (float(bound.min()) for bound in space.bounds())
        actions = jax.random.uniform(key_act, shape, jnp.float32, low, high)
        keys = jax.random.split(key_step, (steps, num_envs))

        def step(carry: Any, xs: Any) -> Any:
            state, total = carry
            state, outcome, _ = jax.vmap(env.advance_and_reset)(xs[0], state, xs[1])
            seen = jnp.sum(jax.vmap(env.observe)(state)) + jnp.sum(outcome.reward)
            return (state, total + seen), None

        return jax.lax.scan(step, (state, jnp.zeros(())), (keys, actions))[0]

    return run


class Ours:
    """One compiled loop with the states that it goes on from."""

    def __init__(self, env: Any, num_envs: int, args: Args, devices: int = 1) -> None:
        self.steps = steps_per_call(args, num_envs)
        self.num_envs = num_envs
        key = jax.random.key(0)
        self.state = jax.jit(jax.vmap(env.init))(jax.random.split(key, num_envs))
        run = ours(env, num_envs // devices, self.steps)
        if devices > 1:
            mesh = Mesh(np.array(jax.devices()[:devices]), ("envs",))
            split, whole = PartitionSpec("envs"), PartitionSpec()
            self.state = jax.device_put(self.state, NamedSharding(mesh, split))

            def share(key: jax.Array, state: Any, one: Callable[..., Any] = run) -> Any:
                state, total = one(jax.random.fold_in(key, jax.lax.axis_index("envs")), state)
                return state, total[None]  # a sum per device: on two cores, waiting for each other can be for ever

            run = jax.shard_map(share, mesh=mesh, in_specs=(whole, split), out_specs=(split, split), check_vma=False)
        self.program = compile_once(run, key, self.state)
        self.key = key
        for _ in range(-(-args.warmup // self.steps)):
            self()

    def __call__(self) -> None:
        self.key, key = jax.random.split(self.key)
        self.state, _ = jax.block_until_ready(self.program.call(key, self.state))


class Rollout:
    """C MuJoCo's `rollout` of `num_envs` robots over `steps` environment steps, on `threads` threads."""

    def __init__(self, env: Any, num_envs: int, steps: int, threads: int) -> None:
        from envs_jax.mamujoco import models

        mujoco: Any = import_module("mujoco")
        rollout: Any = import_module("mujoco.rollout")
        sim, skip = env._parts.sim, env._parts.rules.frame_skip
        # The plain model, with the options of its MJCF.
        segments = {"manysegmentswimmer": sim.mj.nu, "manysegmentant": sim.mj.nu // 4}.get(env.robot, 0)
        self.model = models.mj_model(env.robot, segments)
        self.num_envs, self.steps = num_envs, steps
        rng = np.random.default_rng(0)
        state = jax.jit(jax.vmap(env.init))(jax.random.split(jax.random.key(0), num_envs))
        kind = mujoco.mjtState.mjSTATE_FULLPHYSICS
        starts, data = [], mujoco.MjData(self.model)
        for qpos, qvel in zip(np.asarray(state.qpos), np.asarray(state.qvel), strict=True):
            data.qpos[:], data.qvel[:] = qpos, qvel
            full = np.empty(mujoco.mj_stateSize(self.model, kind))
            mujoco.mj_getState(self.model, data, full, kind)
            starts.append(full)
        self.starts = np.stack(starts)
        low, high = self.model.actuator_ctrlrange.T
        self.control = np.repeat(rng.uniform(low, high, (num_envs, steps, low.size)), skip, axis=1)
        self.datas = [mujoco.MjData(self.model) for _ in range(threads)]
        self.pool = rollout.Rollout(nthread=threads if threads > 1 else 0)

    def __call__(self) -> None:
        self.pool.rollout(self.model, self.datas, self.starts, self.control)


def beside(python: Path, program: str, settings: Sequence[Any]) -> list[list[float]] | None:
    """What processes of another project print, one for each of `settings`, begun together; None where they fail."""
    # One thread each, as their users run them side by side.
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    environ.pop("XLA_FLAGS", None)
    running: list[Any] = [
        subprocess.Popen(
            [str(python), "-c", program, json.dumps(one)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ,
        )
        for one in settings
    ]  # fmt: skip
    ready = [any(line.strip() == "ready" for line in process.stdout) for process in running]
    if not all(ready):
        for process in running:
            process.kill()
        return None
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    return [json.loads(process.communicate()[0]) for process in running]


def gymnasium_robotics(args: Args, robot: str, partition: str, processes: int) -> list[float] | None:
    """Seconds per step of all processes together, per window; None where MaMuJoCo cannot make the scenario."""
    assert args.gymnasium_robotics is not None
    conf = None if "pendulum" in robot else partition
    settings = [(SCENARIOS[robot], conf, args.repeats, args.seconds, seed) for seed in range(processes)]
    found = beside(args.gymnasium_robotics, THEIRS, settings)
    return None if found is None else [1 / sum(1 / x for x in window) for window in zip(*found, strict=True)]


def row(robot: str, partition: str, program: str, envs: int, rate: float, **more: Any) -> dict[str, Any]:
    """A line of the table."""
    columns = {"robot": robot, "partition": partition, "program": program, "envs": envs}
    columns |= {"env_steps_per_s": round(rate), "median_ms": "", "min_ms": "", "max_ms": "", "repeats": ""}
    columns |= {"steps_per_call": "", "compile_s": "", "state_bytes": "", **more}
    return columns


def measure(args: Args, robot: str) -> Iterator[dict[str, Any]]:
    """Rows of one robot."""
    partition, cores = NAMED[robot][0], os.cpu_count() or 1
    # The robots' other programs wait, so that few are in memory at a time.
    for num_envs in args.envs:
        programs: dict[str, Any] = {}
        for preset in args.presets:
            programs[preset] = Ours(envs_jax.make(f"mamujoco/{robot}", physics=preset), num_envs, args)
            if args.devices > 1 and num_envs > 1:
                shared = Ours(envs_jax.make(f"mamujoco/{robot}", physics=preset), num_envs, args, args.devices)
                programs[f"{preset}, {args.devices} devices"] = shared
        env = envs_jax.make(f"mamujoco/{robot}")
        for threads in sorted({1, cores}):
            programs[f"C MuJoCo rollout, {threads} threads"] = Rollout(
                env, num_envs, 200 if num_envs < 1024 else 10, threads
            )
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        for turn in range(args.repeats + 1):
            for name, program in programs.items():
                began = time.perf_counter()
                program()
                if turn > 0:  # the first call warms up
                    seconds[name].append(time.perf_counter() - began)
        for name, program in programs.items():
            rate = num_envs * program.steps / statistics.median(seconds[name])
            more: dict[str, Any] = {"steps_per_call": program.steps}
            if isinstance(program, Ours):
                bytes_each = sum(leaf.nbytes for leaf in jax.tree.leaves(program.state)) // num_envs
                more |= {"compile_s": round(program.program.compile_seconds, 1), "state_bytes": bytes_each}
            yield row(robot, partition, name, num_envs, rate, **spread(seconds[name]), **more)
    if args.gymnasium_robotics is not None:
        for processes in sorted({1, cores}):
            found = gymnasium_robotics(args, robot, partition, processes)
            name = f"Gymnasium-Robotics, {processes} processes"
            if found is None:
                print(f"{robot}: {name}: cannot make it here")
                continue
            yield row(robot, partition, name, processes, 1 / statistics.median(found), **spread(found))
    if args.mabrax is not None and robot in MABRAX:
        yield from mabrax(args, args.mabrax, robot)


def mabrax(args: Args, python: Path, robot: str) -> Iterator[dict[str, Any]]:
    """Rows of MABrax's robot of the same name."""
    name = MABRAX[robot]
    for num_envs in args.envs:
        steps = steps_per_call(args, num_envs)
        printed = beside(python, BRAX, [(name, num_envs, steps, args.repeats)])
        if printed is None:
            print(f"{robot}: MABrax: cannot make it here")
            break
        compiling, *calls = printed[0]
        more: dict[str, Any] = {"steps_per_call": steps, "compile_s": round(compiling, 1), **spread(calls)}
        rate = num_envs * steps / statistics.median(calls)
        yield row(robot, name.partition("_")[2], "MABrax", num_envs, rate, **more)


def main(args: Args) -> None:
    command = " ".join(["python", *sys.argv])
    for flag, python in {"--gymnasium-robotics": args.gymnasium_robotics, "--mabrax": args.mabrax}.items():
        if python is None:
            continue
        if not python.exists():
            sys.exit(f"error: {flag} is {python}; allowed: a Python interpreter")
        command = command.replace(str(python), "PYTHON")
    if args.devices > 1:  # Before JAX starts its backend.
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={args.devices}".strip()
    write_table(args.out, (row for robot in args.robots for row in measure(args, robot)), command)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
