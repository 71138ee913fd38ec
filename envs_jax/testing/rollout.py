"""Random episodes in one program, each step checked through every way that the contract offers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.spaces import Discrete
from envs_jax.testing.tools import close, finite, window


def _probe(env: Any, key: jax.Array, state: Any, reset_state: Any) -> dict[str, Any]:
    """One step through every way that the contract offers, with the same keys and actions."""
    key_act, key_step = jax.random.split(key)
    actions = _sample_actions(env, key_act, state)
    by_agent = {a: actions[i][window(env.action_space(a))] for i, a in enumerate(env.agents)}
    as_vectors = {a: x[None] if x.ndim == 0 else x for a, x in by_agent.items()}  # (1,) as JaxMARL's IPPO gives them
    key_inner, key_reset = jax.random.split(key_step)  # how `step` and `advance_and_reset` split theirs

    next_state, outcome, last_state = env.advance_and_reset(key_step, state, actions)
    step = env.step(key_step, state, by_agent)
    infos = dict(step[4])
    step[4]["__added_by_a_wrapper__"] = None  # JaxMARL's LogWrapper writes into it
    step_env = env.step_env(key_inner, state, as_vectors)
    step_to = env.step(key_step, state, by_agent, reset_state)
    discrete = isinstance(env.action_space(), Discrete)
    return {
        "actions": actions,
        "state": state,
        "next_state": next_state,
        "last_state": last_state,
        "outcome": outcome,
        "obs": env.observe(state),
        "next_obs": env.observe(next_state),
        "last_obs": env.observe(last_state),
        "global_state": env.global_state(next_state),
        "world_state": env.world_state(next_state),
        "mask": env.action_mask(state) if discrete else None,
        "masks": env.get_avail_actions(state) if discrete else None,
        "step": (*step[:4], infos),
        "step_env": step_env,
        "step_to": step_to,
        "given_obs": env.get_obs(reset_state),
        "reset": env.reset(key_reset),
    }


def _sample_actions(env: Any, key: jax.Array, state: Any) -> jax.Array:
    """Legal actions [N, ...]; continuous ones leave their box now and then, as a Gaussian policy's do."""
    space = env.action_space()
    if isinstance(space, Discrete):
        mask = env.action_mask(state)
        score = jax.random.uniform(key, mask.shape, jnp.float32)
        return jnp.argmax(jnp.where(mask, score, -1.0), axis=1).astype(jnp.int32)
    key_sample, key_leave = jax.random.split(key)
    actions = jax.vmap(space.sample)(jax.random.split(key_sample, env.num_agents))
    if not np.issubdtype(space.dtype, np.floating):
        return actions
    leaves = jax.random.uniform(key_leave, (), jnp.float32) < 0.25
    return actions * jnp.where(leaves, 3.0, 1.0).astype(actions.dtype)


jitted_probe = jax.jit(_probe, static_argnums=0)  # traced once, for the structure and within the rollout


def rollout(env: Any, keys: jax.Array, num_steps: int) -> dict[str, Any]:
    """`num_steps` random steps in each of E environments.

    `flags`: bool[E, T] by check, true where it failed. `record`: what happened, [E, T, ...].
    """

    def one_env(key: jax.Array) -> dict[str, Any]:
        key_init, key_steps = jax.random.split(key)
        first_state = env.init(key_init)

        def body(state: Any, key: jax.Array) -> tuple[Any, Any]:
            got = jitted_probe(env, key, state, first_state)
            outcome = got["outcome"]
            record = {
                "obs": got["obs"],
                "reward": outcome.reward,
                "terminated": outcome.terminated,
                "truncated": outcome.truncated,
                "info": outcome.info,
            }
            return got["next_state"], (_flags(env, got), record)

        final_state, (flags, record) = jax.lax.scan(body, first_state, jax.random.split(key_steps, num_steps))
        return {"first_state": first_state, "final_state": final_state, "flags": flags, "record": record}

    return jax.vmap(one_env)(keys)


def _flags(env: Any, got: dict[str, Any]) -> dict[str, jax.Array]:
    """Which checks one step fails, bool[] each. The keys are the messages that a user reads."""
    outcome, state, last, following = got["outcome"], got["state"], got["last_state"], got["next_state"]
    done = outcome.terminated | outcome.truncated
    flags: dict[str, jax.Array] = {}

    def require(message: str, ok: Any) -> None:
        ok = jnp.asarray(ok)
        flags[message] = flags.get(message, jnp.asarray(False)) | ~ok

    require("observation: not finite", finite((got["obs"], got["last_obs"], got["next_obs"])))
    require("reward: not finite", finite(outcome.reward))
    require("info: not finite", finite(outcome.info))
    require("global state: not finite", finite(got["global_state"]))
    require("global state: world_state differs from it", close(got["global_state"], got["world_state"]))

    require("outcome: terminated and truncated at once", ~(outcome.terminated & outcome.truncated))
    require("clock: state.done is not what the outcome says", last.done == done)
    require("clock: state.step does not count steps", last.step == state.step + 1)
    if env.max_steps is not None:
        require("clock: an episode goes on at max_steps", done | (last.step < env.max_steps))
    require("auto-reset: done or step not cleared after an end", ~following.done & ((following.step == 0) | ~done))
    require("auto-reset: the state changed though no episode ended", done | close(following, last))

    obs, next_state, rewards, dones, infos = got["step"]
    final_obs, final_state, *final_rest = got["step_env"]
    given_obs, given_state, *_ = got["step_to"]
    fresh_obs, fresh_state = got["reset"]
    require("auto-reset: step and advance_and_reset give different states", close(next_state, following))
    require(
        "auto-reset: step differs from step_env before an end", done | close((obs, next_state), got["step_env"][:2])
    )
    require("auto-reset: step does not start afresh after an end", ~done | close((obs, next_state), got["reset"]))
    require("auto-reset: advance_and_reset does not start afresh", ~done | close(following, fresh_state))
    require("auto-reset: step ignores the given reset_state", ~done | close(given_obs, got["given_obs"]))
    require("auto-reset: step uses reset_state before an end", done | close(given_state, final_state))
    require("auto-reset: reward, done or info of step and step_env differ", close([rewards, dones, infos], final_rest))
    require("auto-reset: last_state is not the state that step_env gives", close(last, final_state))

    agents = list(env.agents)
    row = env.observation_space()
    for stacked, by_agent in ((got["next_obs"], obs), (got["last_obs"], final_obs), (None, fresh_obs)):
        for i, agent in enumerate(agents):
            space = env.observation_space(agent)
            require("observation: outside the agent's space", space.contains(by_agent[agent]))
            if stacked is not None:
                own = stacked[i][window(space)]
                require("dictionaries: observation is not the agent's row", close(own, by_agent[agent]))
                padding = np.ones(row.shape, bool)
                padding[window(space)] = False
                require("observation: not padded with zeros", jnp.all(jnp.where(padding, stacked[i], 0) == 0))
        if stacked is not None:
            require("observation: outside the stacked space", jnp.all(jax.vmap(row.contains)(stacked)))
    require("dictionaries: reward is not the agent's", close([rewards[a] for a in agents], list(outcome.reward)))
    require("dictionaries: dones disagree", jnp.all(jnp.stack([d == done for d in dones.values()])))
    everyone = jnp.ones(env.num_agents, bool)
    ends = {"terminated": outcome.terminated & everyone, "truncated": outcome.truncated & everyone}
    require("dictionaries: info differs from the outcome's", close(infos, outcome.info | ends))

    if got["mask"] is not None:
        sizes = np.array([env.action_space(agent).n for agent in agents])
        exists = np.arange(env.action_space().n) < sizes[:, None]
        if not env.masks_actions:
            require("mask: rules out actions although masks_actions is False", jnp.all(got["mask"]))
        require("mask: empty for an agent", jnp.all(got["mask"].any(axis=1)))
        require("mask: allows actions that the agent's space lacks", ~jnp.any(got["mask"] & ~exists))
        own = {agent: got["mask"][i, : sizes[i]] for i, agent in enumerate(agents)}
        require("mask: get_avail_actions is not the agent's row", close(own, got["masks"]))
    return flags
