"""`check_env`: whether an environment keeps the contract of `envs_jax.base`."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from envs_jax.base import MultiAgentEnv, Outcome
from envs_jax.spaces import Discrete, Space
from envs_jax.testing.rollout import jitted_probe, rollout
from envs_jax.testing.tools import Problems, equal_trees, jit_for_once, shorten, steps_for_two_episodes, twin

_RESERVED_NAMES = ("mpe", "smax", "overcooked", "hanabi")  # JaxMARL's scripts switch behaviour on these substrings
_INFO_DTYPES = ("float32", "int32", "bool")


def check_env(
    env: MultiAgentEnv,
    *,
    num_steps: int | None = None,
    num_envs: int = 3,
    seed: int = 0,
    x64: bool = True,
    render: bool = True,
) -> None:
    """Raise AssertionError, naming each failed check, unless `env` keeps the contract.

    num_steps: steps of the rollout per environment; by default enough for two episodes.
    num_envs: environments in the rollout.
    seed: seed of its keys.
    x64: also run under `jax_enable_x64` with legacy keys, at the price of a second compilation.
    render: also render, where the environment can.

    Checks: value semantics (frozen, hash, equality, one compilation for equal environments), names and spaces,
    structure (shapes, dtypes, no weak types; the same after `init` and after a step; flat `info` of [N] leaves with
    steady keys; discrete actions of shape () and (1,)), both key styles, x64, finite values, observations inside
    their spaces, masks, clock, termination and truncation, auto-reset against `step_env`, dictionaries against stacked
    arrays, same key same trajectory, pictures.
    """
    problems = Problems()
    subject = f"check_env({type(env).__name__})"
    _check_value_semantics(problems, env)
    _check_names_and_spaces(problems, env)
    problems.raise_if_any(subject)

    short = shorten(env)
    key = jax.random.key(seed)
    _check_structure(problems, short, key)
    problems.raise_if_any(subject)

    num_steps = num_steps or steps_for_two_episodes(short)
    traces: list[None] = []

    def counted(env: MultiAgentEnv, keys: jax.Array) -> dict[str, Any]:
        traces.append(None)
        return rollout(env, keys, num_steps)

    run = jit_for_once(counted, static_argnums=0)
    keys = jax.random.split(key, num_envs)
    with problems.section("rollout (vmap of scan)"):
        first = run(short, keys)
        _check_rollout(problems, jax.device_get(first), short)
        second = run(twin(short), keys)
        problems.expect(len(traces) == 1, "no retrace", "an equal environment was traced and compiled again")
        problems.expect(
            equal_trees(first["record"], second["record"]),
            "determinism",
            "the same key gave another trajectory in a second call",
        )
        if x64:
            _check_x64_and_legacy_keys(problems, short, first["record"], num_envs, seed)
        if render:
            for name in ("first_state", "final_state"):
                _check_render(problems, short, jax.tree.map(lambda leaf: leaf[0], first[name]))
    problems.raise_if_any(subject)


# --- Without running anything ---


def _check_value_semantics(problems: Problems, env: Any) -> None:
    with problems.section("value semantics"):
        other = twin(env)
        problems.expect(env == other, "value semantics", "an environment with the same settings is not equal to it")
        problems.expect(hash(env) == hash(other), "value semantics", "equal environments have different hashes")
    try:
        env.num_agents = env.num_agents
    except AttributeError:
        pass
    else:
        problems.expect(False, "value semantics", "not frozen: num_agents can be set")


def _check_names_and_spaces(problems: Problems, env: Any) -> None:
    with problems.section("names"):
        name = env.name
        problems.expect(isinstance(name, str) and name, "names", f"name is {name!r}; required: a string")
        hits = [word for word in _RESERVED_NAMES if word in str(name).lower()]
        problems.expect(not hits, "names", f"name is '{name}'; JaxMARL's scripts treat '{hits}' in a name specially")
        agents = list(env.agents)
        problems.expect(
            len(agents) == env.num_agents and len(set(agents)) == len(agents) and "__all__" not in agents,
            "names",
            f"agents is {agents}; required: {env.num_agents} distinct names",
        )
        classes = env.agent_classes
        problems.expect(
            isinstance(classes, dict) and sorted(a for group in classes.values() for a in group) == sorted(agents),
            "names",
            f"agent_classes is {classes}; required: a dictionary whose lists hold each agent once",
        )
    for kind in ("observation", "action"):
        with problems.section("spaces"):
            row = getattr(env, f"{kind}_space")()
            own = getattr(env, f"{kind}_spaces")
            problems.expect(list(own) == list(env.agents), "spaces", f"{kind}_spaces has keys {list(own)}")
            for agent, space in own.items():
                problems.expect(
                    space == getattr(env, f"{kind}_space")(agent),
                    "spaces",
                    f"{kind}_spaces['{agent}'] is not {kind}_space('{agent}')",
                )
                problems.expect(_fits(space, row), "spaces", f"{kind} space of {agent}, {space}, exceeds a row, {row}")


def _fits(own: Space, row: Space) -> bool:
    """Whether values of `own` can be padded to values of `row`."""
    if isinstance(own, Discrete) or isinstance(row, Discrete):
        return isinstance(own, Discrete) and isinstance(row, Discrete) and own.n <= row.n
    return (
        len(own.shape) == len(row.shape)
        and own.dtype == row.dtype
        and all(a <= b for a, b in zip(own.shape, row.shape, strict=True))
    )


def _check_structure(problems: Problems, env: Any, key: jax.Array) -> None:
    """Shapes, dtypes and weak types, by abstract evaluation: first what an environment defines, then what follows."""
    with problems.section("init"):
        state = jax.eval_shape(env.init, key)
        for name, dtype in (("done", bool), ("step", np.int32)):
            problems.expect_array(getattr(state, name, None), "state", f"state.{name}", (), dtype)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            weak = f"state{jax.tree_util.keystr(path)} is weakly typed"
            problems.expect(not leaf.weak_type, "no weak types", weak)
    if not problems.found:
        _check_rules(problems, env, key, state)
    if not problems.found:
        with problems.section("step"):
            _check_derived(problems, env, jax.eval_shape(jitted_probe, env, key, state, state), state)


def _check_rules(problems: Problems, env: Any, key: jax.Array, state: Any) -> None:
    """Observations, masks and the outcome of one step."""
    n, row, moves = env.num_agents, env.observation_space(), env.action_space()
    with problems.section("observation"):
        obs = jax.eval_shape(env.observe, state)
        problems.expect_array(obs, "observation", "observe(state)", (n, *row.shape), row.dtype)
    for name in ("global_state", "world_state"):
        with problems.section("global state"):
            whole = jax.eval_shape(getattr(env, name), state)
            problems.expect_array(whole, "global state", name, (int(np.prod(whole.shape)),), np.float32)
    if isinstance(moves, Discrete):
        with problems.section("mask"):
            mask = jax.eval_shape(env.action_mask, state)
            problems.expect_array(mask, "mask", "action_mask(state)", (n, moves.n), bool)
    with problems.section("advance"):
        actions = jax.ShapeDtypeStruct((n, *moves.shape), moves.dtype)
        next_state, outcome = jax.eval_shape(env.advance, key, state, actions)
        difference = _structural_difference(state, next_state)
        problems.expect(difference is None, "state structure", f"init and advance differ: {difference}")
        kind = type(outcome).__name__
        problems.expect(isinstance(outcome, Outcome), "outcome", f"advance gives {kind}; required: Outcome")
        problems.expect_array(outcome.reward, "reward", "reward", (n,), np.float32)
        for name in ("terminated", "truncated"):
            problems.expect_array(getattr(outcome, name), "outcome", name, (), bool)
        kind = type(outcome.info).__name__
        problems.expect(isinstance(outcome.info, dict), "info", f"is {kind}; required: a dictionary")
        _check_info(problems, outcome.info, n)


def _check_info(problems: Problems, info: dict[str, Any], num_agents: int) -> None:
    for name, leaf in info.items():
        problems.expect(isinstance(name, str), "info", f"key {name!r}; required: a string")
        dtype = leaf.dtype if str(getattr(leaf, "dtype", "")) in _INFO_DTYPES else np.float32
        problems.expect_array(leaf, "info", f"'{name}'", (num_agents,), dtype)


def _check_derived(problems: Problems, env: Any, got: dict[str, Any], state: Any) -> None:
    """What `probe` gives: auto-reset and dictionaries."""
    agents = list(env.agents)
    after = {"advance_and_reset": got["next_state"], "advance_and_reset's last state": got["last_state"]}
    after |= {"reset": got["reset"][1]} | {way: got[way][1] for way in ("step", "step_env", "step_to")}
    for way, other in after.items():
        difference = _structural_difference(state, other)
        problems.expect(difference is None, "state structure", f"init and {way} differ: {difference}")

    if got["masks"] is not None:
        keys = sorted(got["masks"])
        problems.expect(keys == sorted(agents), "mask", f"get_avail_actions has keys {keys}; required: the agents")
        for agent, mask in got["masks"].items():
            own = (env.action_space(agent).n,)
            problems.expect_array(mask, "mask", f"get_avail_actions['{agent}']", own, bool)

    info_keys = sorted({*got["outcome"].info, "terminated", "truncated"})
    all_obs = {way: got[way][0] for way in ("reset", "step", "step_env", "step_to")}
    for way, obs in all_obs.items():
        missing = [agent for agent in agents if agent not in obs]
        problems.expect(not missing, "dictionaries", f"{way}: observations lack {missing}")
        for agent in set(agents) - set(missing):
            space = env.observation_space(agent)
            problems.expect_array(obs[agent], "dictionaries", f"{way}: obs['{agent}']", space.shape, space.dtype)
    for way in ("step", "step_env", "step_to"):
        _, _, rewards, dones, infos = got[way]
        problems.expect(set(agents) <= set(rewards), "dictionaries", f"{way}: rewards have keys {sorted(rewards)}")
        for agent, reward in rewards.items():
            problems.expect_array(reward, "dictionaries", f"{way}: rewards['{agent}']", (), np.float32)
        problems.expect(set(dones) == {*agents, "__all__"}, "dictionaries", f"{way}: dones have keys {sorted(dones)}")
        for agent, done in dones.items():
            problems.expect_array(done, "dictionaries", f"{way}: dones['{agent}']", (), bool)
        problems.expect(
            sorted(infos) == info_keys,
            "info",
            f"{way} has keys {sorted(infos)}; required: {info_keys}, those of the outcome with terminated and"
            " truncated, at each call, in a dictionary of its own",
        )
        _check_info(problems, infos, env.num_agents)


def _structural_difference(a: Any, b: Any) -> str | None:
    """How two trees of shapes differ, in words; None where they do not."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return f"{jax.tree.structure(a)} and {jax.tree.structure(b)}"
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        for what in ("shape", "dtype", "weak_type"):
            if getattr(x, what) != getattr(y, what):
                leaf = jax.tree_util.keystr(path)
                return f"{what} of {leaf} is {getattr(x, what)} and {getattr(y, what)}"
    return None


# --- On recorded rollouts ---


def _check_rollout(problems: Problems, result: dict[str, Any], env: Any) -> None:
    first, record = result["first_state"], result["record"]
    problems.expect(not first.done.any() and not first.step.any(), "clock", "done or step is set in a new episode")
    for message, failed in result["flags"].items():
        if failed.any():
            where, when = np.argwhere(failed)[0]
            check, _, what = message.partition(": ")
            problems.expect(False, check, f"{what} ({failed.sum()} of {failed.size} steps; first at step {when})")
    ends = (record["terminated"] | record["truncated"]).sum(axis=1)  # (E,)
    problems.expect(
        (ends >= 2).any(),
        "episode ends",
        f"no environment ended two episodes in {record['reward'].shape[1]} steps of the rollout; give a larger"
        " num_steps, or an environment with a shorter max_steps",
    )


def _check_x64_and_legacy_keys(problems: Problems, env: Any, expected: Any, num_envs: int, seed: int) -> None:
    """A few steps with `PRNGKey` under `jax_enable_x64` must be those without either.

    Both at once saves a compilation; when something is wrong, `PRNGKey` alone tells which of the two it is.
    """
    few = min(5, expected["reward"].shape[1])

    def run(x64: bool) -> tuple[Problems, Any]:
        found, got = Problems(where=" (x64)" if x64 else " (PRNGKey)"), None
        with jax.enable_x64(x64):
            key = jax.random.PRNGKey(seed)
            _check_structure(found, env, key)
            if not found.found:
                with found.section("rollout"):
                    keys = jax.random.split(key, num_envs)
                    got = jit_for_once(rollout, static_argnums=(0, 2))(env, keys, few)["record"]
        return found, got

    found, got = run(x64=True)
    key_problems, _ = run(x64=False) if found.found else (found, None)
    if found.found:
        problems.found += key_problems.found or found.found
        return
    # A few steps only, and loosely: contact dynamics may amplify how differently the two programs round.
    start = jax.tree.map(lambda leaf: leaf[:, :few], expected)
    problems.expect(
        equal_trees(start, got, tolerance=1e-3),
        "determinism (x64, PRNGKey)",
        "the same seed gave another trajectory in a program traced under jax_enable_x64 with legacy keys: a draw or a"
        " computation follows JAX's default dtypes, or depends on something other than key, state and actions",
    )


def _check_render(problems: Problems, env: Any, state: Any) -> None:
    with problems.section("render"):
        try:
            picture = env.render(state)
        except NotImplementedError:
            return
        ok = isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3
        ok = ok and picture.shape[2] == 3 and picture.size > 0
        what = f"{picture.dtype}{list(picture.shape)}" if hasattr(picture, "shape") else type(picture).__name__
        problems.expect(ok, "render", f"gave {what}; required: a NumPy array uint8[height, width, 3]")
