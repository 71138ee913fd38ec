"""Checks of how environments get on with the world outside: JaxMARL's wrappers, and the import itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.base import MultiAgentEnv
from envs_jax.spaces import Discrete
from envs_jax.testing.tools import Problems, jit_for_once, shorten, steps_for_two_episodes


def check_jaxmarl_wrappers(env: MultiAgentEnv, *, num_envs: int = 3, seed: int = 0) -> None:
    """Raise AssertionError unless JaxMARL's wrappers work around `env` and agree with it.

    Tries `LogWrapper`, a wrapper that adds `world_state` in the way of its MAPPO scripts, and, for discrete actions,
    `CTRolloutManager`; legacy keys, actions of shape (1,) and (). Imports JaxMARL (seconds); ImportError without it.
    """
    from envs_jax.compat.jaxmarl import as_jaxmarl

    theirs: Any = as_jaxmarl(shorten(env))
    from jaxmarl.wrappers import baselines  # only now: as_jaxmarl keeps JaxMARL from printing at its first import

    class WorldState(baselines.JaxMARLWrapper):
        """`obs["world_state"]` [N, sum of observation sizes], as JaxMARL's MAPPO scripts build it."""

        def reset(self, key: jax.Array) -> tuple:
            obs, state = self._env.reset(key)
            return self._with_world_state(obs), state

        def step(self, key: jax.Array, state: Any, action: Any) -> tuple:
            obs, *rest = self._env.step(key, state, action)
            return self._with_world_state(obs), *rest

        def _with_world_state(self, obs: dict[str, jax.Array]) -> dict[str, jax.Array]:
            everything = jnp.concatenate([obs[agent].reshape(-1) for agent in self.agents])
            return obs | {"world_state": jnp.tile(everything, (self.num_agents, 1))}

    problems = Problems()
    num_steps, num_agents = steps_for_two_episodes(shorten(env)), env.num_agents
    keys = jax.random.split(jax.random.PRNGKey(seed), num_envs)
    spaces = theirs.action_spaces
    discrete = isinstance(env.action_space(), Discrete)

    def episodes(wrapped: Any, key: jax.Array) -> Any:
        def body(state: Any, key: jax.Array) -> tuple[Any, Any]:
            key_act, key_step = jax.random.split(key)
            split = dict(zip(spaces, jax.random.split(key_act, num_agents), strict=True))
            actions = {agent: space.sample(split[agent]) for agent, space in spaces.items()}
            actions = {agent: a.reshape(1) if a.ndim == 0 else a for agent, a in actions.items()}
            obs, state, reward, done, info = wrapped.step(key_step, state, actions)
            return state, (obs, reward, done["__all__"], info)

        obs, state = wrapped.reset(key)
        return obs, jax.lax.scan(body, state, jax.random.split(key, num_steps))[1]

    with problems.section("LogWrapper"):
        wrapped = WorldState(baselines.LogWrapper(theirs))  # pyright: ignore[reportArgumentType]
        first_obs, (obs, rewards, done, info) = jit_for_once(jax.vmap(lambda key: episodes(wrapped, key)))(keys)
        reward = np.stack([rewards[agent] for agent in theirs.agents], axis=-1)  # (E, T, N)
        ended = np.asarray(info["returned_episode"])
        problems.expect(
            ended.shape == reward.shape and (ended == np.asarray(done)[..., None]).all() and done.sum() > 0,
            "LogWrapper",
            "returned_episode is not the end of episodes",
        )
        totals, running = np.zeros_like(reward), np.zeros_like(reward[:, 0])
        for t in range(num_steps):
            running = running + reward[:, t]
            totals[:, t] = np.where(np.asarray(done)[:, t, None], running, 0)
            running = np.where(np.asarray(done)[:, t, None], 0, running)
        logged = np.where(ended, info["returned_episode_returns"], 0)
        problems.expect(
            np.allclose(logged, totals, rtol=1e-4, atol=1e-4), "LogWrapper", "returns are not the sums of rewards"
        )
        size = sum(int(np.prod(space.shape)) for space in env.observation_spaces.values())
        for name, value, lead in (("reset", first_obs, (num_envs,)), ("step", obs, (num_envs, num_steps))):
            shape = value["world_state"].shape
            problems.expect(shape == (*lead, num_agents, size), "world state wrapper", f"{name} gives shape {shape}")
    if discrete:
        with problems.section("CTRolloutManager"):
            manager = baselines.CTRolloutManager(theirs, batch_size=num_envs)
            key = jax.random.PRNGKey(seed)
            obs, state = manager.batch_reset(key)
            actions = {agent: manager.batch_sample(key, agent) for agent in manager.agents}
            obs, state, reward, done, _ = manager.batch_step(key, state, actions)
            valid = manager.get_valid_actions(state)
            for agent in manager.agents:
                problems.expect(
                    obs[agent].shape == (num_envs, manager.obs_size) and valid[agent].shape[0] == num_envs,
                    "CTRolloutManager",
                    f"obs['{agent}'] has shape {obs[agent].shape}",
                )
            total = sum(np.asarray(reward[agent]) for agent in manager.agents)
            problems.expect(
                np.allclose(reward["__all__"], total, rtol=1e-4, atol=1e-4), "CTRolloutManager", "reward is no sum"
            )
    problems.raise_if_any(f"check_jaxmarl_wrappers({type(env).__name__})")


_IMPORT_SCRIPT = """
import contextlib, importlib, io, json, sys, time
import jax, numpy
from jax._src import xla_bridge  # the only way to ask without starting one
before = set(sys.modules)
out, err = io.StringIO(), io.StringIO()
start = time.perf_counter()
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    for name in {modules!r}:
        importlib.import_module(name)
print(json.dumps(dict(
    seconds=time.perf_counter() - start,
    backend=xla_bridge.backends_are_initialized(),
    printed=out.getvalue() + err.getvalue(),
    modules=sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}),
)))
"""


def check_import(modules: Iterable[str] | None = None) -> float:
    """Raise AssertionError where importing `modules` has side effects; return its seconds beyond importing JAX.

    modules: names, in order; by default this package's public modules and those of all registered environments.
    Side effects are: starting a JAX backend, printing, and importing jaxmarl, flax, covey or matplotlib. Runs in a
    fresh interpreter. The time is for the caller to judge (0.3 s is the aim); it depends on the machine.
    """
    names = list(_registered_modules() if modules is None else modules)
    script = _IMPORT_SCRIPT.format(modules=names)
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    problems, subject = Problems(), f"check_import({', '.join(names)})"
    if process.returncode:
        problems.expect(False, "import", process.stderr.strip().splitlines()[-1])
        problems.raise_if_any(subject)
    report = json.loads(process.stdout.strip().splitlines()[-1])
    problems.expect(not report["backend"], "import", "started a JAX backend")
    problems.expect(not report["printed"], "import", f"printed {report['printed'][:200]!r}")
    heavy = sorted({"jaxmarl", "flax", "covey", "matplotlib"} & set(report["modules"]))
    problems.expect(not heavy, "import", f"imported {', '.join(heavy)}")
    problems.raise_if_any(subject)
    return float(report["seconds"])


def _registered_modules() -> list[str]:
    from envs_jax.registry import _REGISTRY

    entries = [entry for entry, _ in _REGISTRY.values()]
    modules = {e.partition(":")[0] if isinstance(e, str) else e.__module__ for e in entries}
    public = ("envs_jax", "envs_jax.testing", "envs_jax.wrappers")
    return [*public, *sorted(m for m in modules if m.startswith("envs_jax"))]
