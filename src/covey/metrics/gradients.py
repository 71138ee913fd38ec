"""How noisy policy gradients are, and how much agents' gradients oppose each other.

Gradients come as one pytree with a first axis: M minibatches, or N agents. With a `covey.learners.ppo.PPO`, its carry,
and a `batch` [1, N, M B, ...] of `covey.learners.ppo.Batch`:

    def policy_loss(params, batch):
        return learner.loss(params, batch, carry.hp)[1]["policy_loss"]

    def part(x):                        # M minibatches: [M, 1, N, B, ...]
        return jnp.stack(jnp.split(x, M, axis=2))

    each = jax.vmap(jax.grad(policy_loss), in_axes=(None, 0))
    noise = gradient_noise(each(carry.params, jax.tree.map(part, batch)))

and for conflict each agent's own share of the loss: advantages of the others are 0 (scale them before, and have
`normalize_advantages` be "none" in the learner's settings):

    own = batch.advantage * jnp.eye(N)[:, None, :, None]                                     # [N, 1, N, M B]
    grads = jax.vmap(lambda a: jax.grad(policy_loss)(carry.params, batch._replace(advantage=a)))(own)
    gradient_conflict(grads)

Letters: M minibatches, N agents, B samples, D parameters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from covey.metrics.pairs import cosine_similarities, mean_over_pairs


class GradientNoise(NamedTuple):
    """The noise of minibatch gradients g.

    trace: tr Cov(g) = E |g - E g|^2, float32[]; unbiased.
    signal: |E g|^2, float32[]; unbiased, so it is below 0 at times where noise is most of the gradient.
    ratio: trace / signal, float32[]; infinite where the signal is not above 0. Of several updates average traces and
        signals first and divide then.
    """

    trace: jax.Array
    signal: jax.Array
    ratio: jax.Array


def gradient_noise(grads: Any) -> GradientNoise:
    """The noise of gradients of M minibatches at the same parameters; leaves [M, ...].

    The trace falls as one over the minibatch's size, so compare equal sizes. Unlike the ratio, it depends on the scale
    of the parameters; compare networks of different kinds by the ratio, or by gradients with respect to the same thing
    (the generated weights of an agent, say).
    Raises ValueError for fewer than two minibatches.
    """
    rows = _rows(grads)  # [M, D]
    count = rows.shape[0]
    if count < 2:
        raise ValueError(f"grads have {count} minibatch; allowed: at least 2")
    mean = jnp.mean(rows, axis=0)
    trace = jnp.sum(jnp.square(rows - mean)) / (count - 1)
    signal = jnp.sum(jnp.square(mean)) - trace / count  # |mean|^2 holds the mean's own noise.
    return GradientNoise(trace, signal, jnp.where(signal > 0, trace / jnp.where(signal > 0, signal, 1.0), jnp.inf))


def coordinate_variance_compat(grads: Any) -> jax.Array:
    """What the HyperMARL authors' code calls the variance of the policy gradient (figure 4c), float32[].

        mean over minibatches of   mean_d (g_d - mean_d g_d)^2,   d over all parameters

    That is the spread of one gradient's entries, about |g|^2 / D, and not how much gradients differ from each other: it
    falls with the number of parameters. For comparison with their figure only; `gradient_noise` is the measure to use.
    grads: of the policy's loss alone, leaves [M, ...], with respect to all parameters, so the critic's zeros count.
    """
    return jnp.mean(jnp.var(_rows(grads), axis=1))


def gradient_conflict(grads: Any) -> jax.Array:
    """Mean cosine over pairs of agents' gradients, float32[] in [-1, 1]: below 0 they conflict, 1 is agreement.

    grads: of each agent's own loss with respect to the same parameters, leaves [N, ...]; a gradient of 0 has cosine 0
    with all. The sign is that of HyperMARL's figure 3b (appendix E.4); a function in its authors' code returns minus
    this.
    """
    return mean_over_pairs(cosine_similarities(_rows(grads)))


def _rows(grads: Any) -> jax.Array:
    """Leaves [M, ...] side by side, float32[M, D]."""
    leaves = jax.tree.leaves(grads)
    if not leaves or any(leaf.ndim == 0 or leaf.shape[0] != leaves[0].shape[0] for leaf in leaves):
        shapes = [leaf.shape for leaf in leaves]
        raise ValueError(f"grads have shapes {shapes}; allowed: leaves with the same first axis")
    return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1).astype(jnp.float32)
