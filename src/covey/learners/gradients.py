"""What learners do with gradients: clip them, each agent's own where agents share nothing, and Adam."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax


def clip(
    grads: Any, max_norm: jax.Array | float, separate: bool, num_agents: int, agent_axis: int = 0
) -> tuple[Any, jax.Array]:
    """Gradients scaled down to a global norm, and the norm before; each agent's own where nothing is shared.

    separate: whether each agent's parameters are its own alone (`SharingScheme.separate`); agent_axis is then that of
    the `num_agents` agents in every leaf, and the norm the mean of theirs.
    """
    if not separate:
        norm = optax.tree.norm(grads)
        return jax.tree.map(lambda g: g * jnp.minimum(1.0, max_norm / (norm + 1e-9)), grads), norm
    # The loss is a mean over agents; an agent that learns alone has the mean over its own samples.
    grads = jax.tree.map(lambda g: g * num_agents, grads)
    norm = jax.vmap(optax.tree.norm, in_axes=agent_axis)(grads)  # [N]
    scale = jnp.minimum(1.0, max_norm / (norm + 1e-9))
    grads = jax.tree.map(lambda g: g * scale.reshape(-1, *[1] * (g.ndim - 1 - agent_axis)), grads)
    return grads, jnp.mean(norm)


def adam(hp: Any) -> optax.GradientTransformation:
    """Adam without its step size, which is a hyper-parameter of its own; `hp` has `adam_epsilon`."""
    return optax.scale_by_adam(eps=hp.adam_epsilon)
