"""Advantages and losses of policy-gradient learners, as functions of arrays.

Letters: T rollout steps, N agents, E envs, M minibatch.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import optax

AdvantageScale: TypeAlias = Literal["minibatch", "agent", "none"]


def generalised_advantage(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    done: jax.Array,
    last_value: jax.Array,
    discount: jax.Array | float,
    gae_lambda: jax.Array | float,
) -> jax.Array:
    """Generalised advantage estimation (Schulman et al. 2016), float32[T, N, E].

        delta_t = r_t + gamma V'_t - V_t,   V'_t = V_{t+1}, or at an episode's end what it is bootstrapped with
        A_t     = delta_t + gamma lambda (1 - done_t) A_{t+1}

    reward, value [T, N, E]; next_value [N, E] after the last step; done bool[T, 1, E]; last_value [T, N, E]: value of
    the state that an episode was cut at, 0 where it ended.
    """
    after = jnp.concatenate([value[1:], next_value[None]])
    delta = reward + discount * jnp.where(done, last_value, after) - value
    decay = discount * gae_lambda * (1.0 - done)

    def backwards(advantage: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        delta, decay = step
        advantage = delta + decay * advantage
        return advantage, advantage

    _, advantage = jax.lax.scan(backwards, jnp.zeros_like(next_value), (delta, decay), reverse=True)
    return advantage


def clipped_policy_loss(log_ratio: jax.Array, advantage: jax.Array, epsilon: jax.Array | float) -> jax.Array:
    """-mean min(rho A, clip(rho, 1 - eps, 1 + eps) A)."""
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1.0 - epsilon, 1.0 + epsilon)
    return -jnp.mean(jnp.minimum(ratio * advantage, clipped * advantage))


def clipped_value_loss(
    value: jax.Array,
    old_value: jax.Array,
    target: jax.Array,
    epsilon: jax.Array | float | None,
    huber_delta: jax.Array | float | None = None,
) -> jax.Array:
    """mean max(L(V - R), L(V_old + clip(V - V_old, -eps, eps) - R)); without eps mean L(V - R).

    L(x) = 0.5 x^2; with `huber_delta` d (Huber 1964) that up to |x| = d, and d (|x| - 0.5 d) beyond.
    """

    def loss(error: jax.Array) -> jax.Array:
        if huber_delta is None:
            return 0.5 * jnp.square(error)
        return optax.losses.huber_loss(error, delta=huber_delta)  # type: ignore[arg-type]

    worst = loss(value - target)
    if epsilon is not None:
        clipped = old_value + jnp.clip(value - old_value, -epsilon, epsilon)
        worst = jnp.maximum(worst, loss(clipped - target))
    return jnp.mean(worst)


def normalize(advantage: jax.Array, over: AdvantageScale) -> jax.Array:
    """Advantages [T, N, M] to mean 0 and standard deviation 1 over everything, or over each agent's own."""
    if over == "none":
        return advantage
    axes = (0, 2) if over == "agent" else None
    mean = jnp.mean(advantage, axis=axes, keepdims=True)
    return (advantage - mean) / (jnp.std(advantage, axis=axes, keepdims=True) + 1e-8)
