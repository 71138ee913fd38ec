"""Makes the GIFs of the social dilemmas on these pages: `python docs/images/dilemmas.py`."""

from pathlib import Path

import jax
import jax.numpy as jnp

import envs_jax
from envs_jax.ssd.rendering import animate
from envs_jax.ssd.scripted import POLICIES

EPISODES = {  # game: settings, the policy of most agents, that of the last one, steps
    "cleanup": ({"roles": "cleaner_consumer"}, "cooperator", "zapper", 120),
    "harvest": ({"roles": "5high_5low"}, "restrained", "zapper", 120),
    "coins": ({"roles": "1high_1low", "map": "10x10", "coin_rate": 0.005}, "cooperator", "greedy", 120),
}

for game, (settings, policy, last, steps) in EPISODES.items():
    env = envs_jax.make(game, **settings)

    def step(state, key, env=env, policy=policy, last=last):
        key_most, key_last, key_step = jax.random.split(key, 3)
        most, other = POLICIES[policy](env, state, key_most), POLICIES[last](env, state, key_last)
        actions = jnp.where(jnp.arange(env.num_agents) == env.num_agents - 1, other, most)
        return env.advance(key_step, state, actions)[0], state

    keys = jax.random.split(jax.random.key(1), steps)
    play = jax.jit(lambda state, step=step, keys=keys: jax.lax.scan(step, state, keys))
    _, states = play(env.init(jax.random.key(0)))
    animate(env, states, Path(__file__).with_name(f"{game}.gif"), fps=8)
