"""How differently agents behave: distances between their policies on the same observations.

System neural diversity (Bettini et al. 2023, 2305.02128; HyperMARL, 2412.04233, appendix D) over a pool O:

    SND = 2 / (N (N - 1) |O|)  sum_{i < j}  sum_{o in O}  D(pi_i(o), pi_j(o))

Every agent's policy is asked about all observations, whoever made them. Of a trained `covey.learners.ppo.PPO`:

    networks = learner.actor_critic
    act = sampling(networks, carry.params, learner.env.action_space())
    pool = collect_pool(learner.env, act, networks.start(16)[0], 16, 100, key)
    logits = policy_outputs(networks, carry.params, pool)
    snd(jensen_shannon(logits, pool.flat_mask))        # float32[]

A comparison of methods needs one pool for all: join the pools of several policies with `join_pools`.

D is in [0, 1], 0 for equal policies, for all but Wasserstein's, which is in units of actions. All have gradients, 0
where two policies agree. The distance over actions is taken first, observation by observation, then the mean over
observations. (The HyperMARL authors' code calls SciPy's `jensenshannon` on [observations, actions] with its default
axis 0 and base e, which compares one action's probability over observations; here it is over actions, in base 2.)

Letters: T time, E envs, N agents, B streams of observations, O obs, P = T B observations, A actions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from covey.metrics.pairs import mean_over_pairs
from covey.policies.actor_critic import ActorCritic
from covey.policies.distributions import mask_logits

Act: TypeAlias = Callable[[jax.Array, jax.Array | None, Any, jax.Array, jax.Array], tuple[jax.Array, Any]]
"""`act(obs [N, E, O], mask bool[N, E, A] or None, memory, reset bool[1, E], key) -> (actions [N, E, ...], memory)`."""


# --- The pool of observations ---


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pool:
    """Observations as streams over time, so that recurrent policies can be asked, too.

    obs: [T, B, O]; a stream is what one agent saw in one environment.
    mask: bool[T, B, A], what could be done there; None where all actions always can.
    reset: bool[T, B], an episode begins here.
    """

    obs: jax.Array
    mask: jax.Array | None
    reset: jax.Array

    @property
    def flat_mask(self) -> jax.Array | None:
        """The mask as distances take it, bool[P, A]."""
        return None if self.mask is None else self.mask.reshape(-1, self.mask.shape[-1])


def collect_pool(env: Any, act: Act, memory: Any, num_envs: int, num_steps: int, key: jax.Array) -> Pool:
    """What N agents see in `num_envs` environments of the contract over `num_steps` steps, episode after episode: a
    pool of N x num_envs streams. Pure; jit it with `env`, `act`, `num_envs` and `num_steps` closed over.

    act: the policy, with actions as the environment takes them; `sampling` makes one. memory: its first one.
    """
    masks = hasattr(env.action_space(), "n") and env.masks_actions

    def step(loop: tuple, key_step: jax.Array) -> tuple[tuple, tuple]:
        env_state, memory, reset = loop
        key_act, key_env = jax.random.split(key_step)
        obs = jnp.swapaxes(jax.vmap(env.observe)(env_state), 0, 1)
        obs = obs.reshape(*obs.shape[:2], -1)  # [N, E, O]
        mask = jnp.swapaxes(jax.vmap(env.action_mask)(env_state), 0, 1) if masks else None
        actions, memory = act(obs, mask, memory, reset, key_act)
        keys = jax.random.split(key_env, num_envs)
        env_state, outcome, _ = jax.vmap(env.advance_and_reset)(keys, env_state, jnp.swapaxes(actions, 0, 1))
        everyone = jnp.broadcast_to(reset, obs.shape[:2])
        return (env_state, memory, outcome.done[None]), (obs, mask, everyone)

    key_init, key_steps = jax.random.split(key)
    env_state = jax.vmap(env.init)(jax.random.split(key_init, num_envs))
    loop = (env_state, memory, jnp.ones((1, num_envs), jnp.bool_))
    _, seen = jax.lax.scan(step, loop, jax.random.split(key_steps, num_steps))
    return Pool(*jax.tree.map(lambda x: x.reshape(num_steps, -1, *x.shape[3:]), seen))


def sampling(networks: ActorCritic, params: Any, action_space: Any) -> Act:
    """The stochastic policy that `networks` have with `params`, for `collect_pool`; its memory is `networks.start`'s
    first. Continuous actions are clipped to the space's bounds."""
    weights = networks.weights(params)

    def act(
        obs: jax.Array, mask: jax.Array | None, memory: Any, reset: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Any]:
        outputs, memory = networks.policy(weights, obs[None].astype(networks.obs_dtype), memory, reset[None])
        if networks.continuous:
            noise = jax.random.normal(key, outputs.shape, jnp.float32)
            actions = outputs + jnp.exp(networks.log_std(weights)) * noise
            return jnp.clip(actions[0], *action_space.bounds()), memory
        logits = outputs[0] if mask is None else mask_logits(outputs[0], mask)
        return jax.random.categorical(key, logits).astype(jnp.int32), memory

    return act


def join_pools(*pools: Pool) -> Pool:
    """One pool of all streams of pools over the same number of steps."""
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *pools)


def policy_outputs(networks: ActorCritic, params: Any, pool: Pool) -> jax.Array:
    """Every agent's logits or means on all of the pool, [N, P, A], masks left aside.

    Holds the pool N times over. Ask about parts of a large one, and average the matrices of distances.
    """
    num_steps, streams, _ = pool.obs.shape
    obs = pool.obs.astype(networks.obs_dtype)[:, None]
    obs = jnp.broadcast_to(obs, (num_steps, networks.num_agents, *obs.shape[2:]))
    memory = networks.start(streams)[0]
    outputs, _ = networks.policy(networks.weights(params), obs, memory, pool.reset[:, None])  # [T, N, B, A]
    return jnp.swapaxes(outputs, 0, 1).reshape(networks.num_agents, num_steps * streams, -1)


# --- Distances, as matrices over agents ---


def snd(distances: jax.Array) -> jax.Array:
    """System neural diversity, float32[]: the mean over pairs of a matrix of distances [N, N]."""
    return mean_over_pairs(distances)


def jensen_shannon(logits: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Jensen-Shannon distance in base 2, the root of the divergence: float32[N, N] in [0, 1].

    logits: [N, P, A] of each agent on the same observations. mask: bool[P, A], actions that can be done there.
    """

    def distance(p: jax.Array, q: jax.Array) -> jax.Array:
        total = p + q
        # With p = m (1 + r) and q = m (1 - r), which keeps its digits where p and q are close.
        r = jnp.where(total > 0, (p - q) / jnp.where(total > 0, total, 1.0), 0.0)
        nats = 0.25 * total * (_xlogx(1 + r, r) + _xlogx(1 - r, -r))
        return _root(jnp.minimum(jnp.sum(nats, axis=-1) / np.log(2), 1.0))

    return _matrix(distance, _probabilities(logits, mask))


def total_variation(logits: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Total variation distance, sum_a |p_a - q_a| / 2: float32[N, N] in [0, 1]. Arguments as in `jensen_shannon`."""
    return _matrix(lambda p, q: 0.5 * jnp.sum(jnp.abs(p - q), axis=-1), _probabilities(logits, mask))


def hellinger(mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """Hellinger distance of diagonal Gaussians: float32[N, N] in [0, 1].

    H^2 = 1 - prod_a sqrt(2 s t / (s^2 + t^2)) exp(-(m - n)^2 / (4 (s^2 + t^2)))   for N(m, s^2) and N(n, t^2)

    mean: [N, P, A] of each agent on the same observations. log_std: the same, or what broadcasts to it.
    """

    def distance(first: tuple, second: tuple) -> jax.Array:
        (mean, log_std), (other_mean, other_log_std) = first, second
        # log(s^2 + t^2), in bounds where its exponential and that one's square are finite.
        log_variance = jnp.clip(jnp.logaddexp(2 * log_std, 2 * other_log_std), -40.0, 40.0)
        # 2 s t / (s^2 + t^2) = 1 / cosh(log s - log t), and cosh x = 1 + 2 sinh^2(x / 2), which overflows at |x| = 89.
        apart = jnp.clip(log_std - other_log_std, -40.0, 40.0)  # The distance is 1 long before.
        overlap = -0.5 * jnp.log1p(2 * jnp.square(jnp.sinh(0.5 * apart)))
        overlap -= 0.25 * jnp.square(mean - other_mean) * jnp.exp(-log_variance)
        return _root(-jnp.expm1(jnp.sum(overlap, axis=-1)))

    return _matrix(distance, (mean, jnp.broadcast_to(log_std, mean.shape)))


def wasserstein(mean: jax.Array, std: jax.Array | float = 0.0) -> jax.Array:
    """2-Wasserstein distance of diagonal Gaussians, in units of actions: float32[N, N].

    W^2 = |m - n|^2 + |s - t|^2   for N(m, s^2) and N(n, t^2)

    mean: [N, P, A] of each agent on the same observations. std: the same, or what broadcasts to it; 0 for
    deterministic policies, whose distance is that of their actions.
    """

    def distance(first: tuple, second: tuple) -> jax.Array:
        (mean, std), (other_mean, other_std) = first, second
        return _root(jnp.sum(jnp.square(mean - other_mean) + jnp.square(std - other_std), axis=-1))

    return _matrix(distance, (mean, jnp.broadcast_to(std, mean.shape)))


def _probabilities(logits: jax.Array, mask: jax.Array | None) -> jax.Array:
    if mask is not None and mask.shape != logits.shape[1:]:
        raise ValueError(f"mask has shape {mask.shape}; allowed: {logits.shape[1:]}, a row for each observation")
    return jax.nn.softmax(logits if mask is None else mask_logits(logits, mask))


def _xlogx(x: jax.Array, less: jax.Array) -> jax.Array:
    """x log x of x = 1 + less, 0 at 0: there the gradient, which is infinite, is 0 as well."""
    positive = x > 0
    return jnp.where(positive, x * jnp.log1p(jnp.where(positive, less, 0.0)), 0.0)


def _root(square: jax.Array) -> jax.Array:
    """The root, its gradient at 0 being 0: jnp.sqrt's is infinite, and NaN in each agent's distance to itself."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def _matrix(distance: Callable[[Any, Any], jax.Array], policies: Any) -> jax.Array:
    """Means over observations of the distances of all pairs, [N, N]; `policies` are arrays [N, P, A]. One agent
    against all others at a time, so that N, not N^2, copies of the pool are held."""
    shape = jax.tree.leaves(policies)[0].shape
    if len(shape) != 3:
        raise ValueError(f"policies have shape {shape}; allowed: [N, P, A], agents first, then observations")
    return jax.lax.map(lambda own: jnp.mean(distance(own, policies), axis=-1), policies)
