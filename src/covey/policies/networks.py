"""Networks as specifications: which weights they have, and how they map inputs to outputs for all agents at once.

A network owns no weights. A sharing scheme (`covey.policies.sharing`, `covey.policies.hypernet`) decides where they
come from and hands over a flat dictionary `name -> array` with a leading agent axis: N, or 1 where all agents use the
same.

Letters: T time, N agents, B batch, I inputs, O outputs, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

Activation: TypeAlias = Literal["relu", "tanh"]
Weights: TypeAlias = dict[str, jax.Array]
Dense: TypeAlias = Callable[[Weights, str, jax.Array], jax.Array]


@dataclass(frozen=True)
class Leaf:
    """One weight array of one agent's network, and its standard initialisation.

    A matrix starts orthogonal with the given gain (`blocks` of them side by side), a vector at `initial`.
    """

    shape: tuple[int, ...]
    gain: float = 0.0
    blocks: int = 1
    initial: float = 0.0
    generated: bool = True
    """Whether a hypernetwork generates it; else it is one weight shared by all agents (a GRU, say)."""

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def rms(self) -> float:
        """Root mean square of the entries at initialisation."""
        if len(self.shape) < 2:
            return 0.0
        rows, columns = self.shape[0], self.shape[1] // self.blocks
        return self.gain / float(np.sqrt(max(rows, columns)))

    def init(self, key: jax.Array) -> jax.Array:
        """Initial weights, float32[shape]."""
        if len(self.shape) < 2:
            return jnp.full(self.shape, self.initial, jnp.float32)
        block = (self.shape[0], self.shape[1] // self.blocks)
        keys = jax.random.split(key, self.blocks)
        return self.gain * jnp.concatenate([orthogonal(k, block) for k in keys], axis=-1)


def orthogonal(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """A random matrix with orthonormal rows or columns, whichever are fewer, uniform over all such; float32[shape].

    The polar factor of a Gaussian matrix, by Newton-Schulz iteration. JAX's own initialiser takes a QR decomposition;
    on CPU that is a LAPACK call which waits for the thread pool that it runs in, so that two at a time lock up a
    program on a machine with two cores (seen with jax 0.10.2). Products alone are safe, batch well and are as fast.
    """
    rows, columns = shape
    x = jax.random.normal(key, (max(shape), min(shape)), jnp.float32) / (np.sqrt(rows) + np.sqrt(columns))

    def improve(_: int, x: jax.Array) -> jax.Array:
        gram = jnp.matmul(x.T, x, precision="highest")
        return 1.5 * x - 0.5 * jnp.matmul(x, gram, precision="highest")  # Singular values: s -> 1.5 s - 0.5 s^3 -> 1.

    x = jax.lax.fori_loop(0, 36, improve, x)  # Small ones grow by 1.5 a step: enough for ratios of 10^5.
    return x if rows >= columns else x.T


class Network(Protocol):
    """One agent's function from a sequence of inputs to a sequence of outputs."""

    def leaves(self) -> dict[str, Leaf]:
        """The weights it needs, by name."""
        ...

    def start(self, num_agents: int, batch: int) -> jax.Array:
        """Memory at the start of an episode, [N, B, H] (H = 0 for a feed-forward network)."""
        ...

    def unroll(
        self, weights: Weights, x: jax.Array, memory: jax.Array, reset: jax.Array, dense: Dense
    ) -> tuple[jax.Array, jax.Array]:
        """Outputs [T, N, B, O] and the memory after the last step, for inputs x [T, N or 1, B, I].

        reset: bool[T, 1, B], forget before this step because a new episode begins with it.
        """
        ...


def activate(name: Activation, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x) if name == "relu" else jnp.tanh(x)


def normalize(x: jax.Array, layer_norm: bool) -> jax.Array:
    """With `layer_norm`, (x - mean) / deviation over the last axis (Ba et al. 2016, 1607.06450), without a learned
    scale and shift; else x."""
    if not layer_norm:
        return x
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-5)


def dense(weights: Weights, name: str, x: jax.Array) -> jax.Array:
    """x W + b for every agent: x [N or 1, B, I], kernel [N or 1, I, O] -> [N or 1, B, O].

    A leading axis of 1 means "the same for all agents" and is never copied out to N.
    """
    kernel, bias = weights[f"{name}/kernel"], weights[f"{name}/bias"]
    agents, batch, inputs = x.shape
    if kernel.shape[0] == 1:  # One matrix for all agents: one large product instead of N small ones.
        y = x.reshape(agents * batch, inputs) @ kernel[0] + bias[0]
        return y.reshape(agents, batch, -1)
    if agents == 1:
        return jnp.einsum("bi,nio->nbo", x[0], kernel) + bias[:, None]
    return jnp.einsum("nbi,nio->nbo", x, kernel) + bias[:, None]


def dense_leaves(name: str, inputs: int, outputs: int, gain: float, generated: bool = True) -> dict[str, Leaf]:
    """The leaves that `dense` reads."""
    return {
        f"{name}/kernel": Leaf((inputs, outputs), gain, generated=generated),
        f"{name}/bias": Leaf((outputs,), generated=generated),
    }


@dataclass(frozen=True)
class MLP:
    """Feed-forward network: hidden layers with an activation, then a linear one; with `layer_norm`, inputs and what
    leaves each hidden layer are normalised."""

    inputs: int
    outputs: int
    hidden: tuple[int, ...] = (64, 64)
    activation: Activation = "relu"
    output_gain: float = 1.0
    layer_norm: bool = False

    def leaves(self) -> dict[str, Leaf]:
        return stack_leaves(self.inputs, self.hidden, self.outputs, self.output_gain)

    def start(self, num_agents: int, batch: int) -> jax.Array:
        return jnp.zeros((num_agents, batch, 0), jnp.float32)

    def unroll(
        self, weights: Weights, x: jax.Array, memory: jax.Array, reset: jax.Array, dense: Dense = dense
    ) -> tuple[jax.Array, jax.Array]:
        x, restore = merge_time(x)
        return restore(_stack(weights, x, len(self.hidden), self.activation, self.layer_norm, dense)), memory


@dataclass(frozen=True)
class GRU:
    """Recurrent network: one dense layer, a gated recurrent unit (Cho et al. 2014), then a head of one hidden layer, or
    without one (`deep_head`).

    The layers before and inside the recurrence are never generated; a hypernetwork generates the head (HyperMARL's
    recurrent agents). The cell is the one of Flax and of JaxMARL's baselines.
    """

    inputs: int
    outputs: int
    hidden: int = 128
    activation: Activation = "relu"
    output_gain: float = 1.0
    deep_head: bool = True
    layer_norm: bool = False

    @property
    def head(self) -> tuple[int, ...]:
        """Hidden layers after the recurrence."""
        return (self.hidden,) if self.deep_head else ()

    def leaves(self) -> dict[str, Leaf]:
        h = self.hidden
        return {
            **dense_leaves("embed", self.inputs, h, float(np.sqrt(2)), generated=False),
            "cell/kernel": Leaf((h, 3 * h), 1.0, blocks=3, generated=False),
            "cell/bias": Leaf((3 * h,), generated=False),
            "cell/recurrent": Leaf((h, 3 * h), 1.0, blocks=3, generated=False),
            "cell/recurrent_bias": Leaf((h,), generated=False),
            **stack_leaves(h, self.head, self.outputs, self.output_gain),
        }

    def start(self, num_agents: int, batch: int) -> jax.Array:
        return jnp.zeros((num_agents, batch, self.hidden), jnp.float32)

    def unroll(
        self, weights: Weights, x: jax.Array, memory: jax.Array, reset: jax.Array, dense: Dense = dense
    ) -> tuple[jax.Array, jax.Array]:
        x, restore = merge_time(x)
        x = activate(self.activation, dense(weights, "embed", normalize(x, self.layer_norm)))
        x = normalize(x, self.layer_norm)
        x = restore(dense(weights, "cell", x))  # [T, N or 1, B, 3H]: all that does not wait for the memory.
        recurrent = {
            "recurrent/kernel": weights["cell/recurrent"],
            "recurrent/bias": jnp.zeros((1, 1), jnp.float32),
        }

        def step(memory: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            x, reset = inputs
            memory = jnp.where(reset[..., None], 0.0, memory)  # [N, B, H]
            x_reset, x_update, x_new = jnp.split(x, 3, axis=-1)
            h_reset, h_update, h_new = jnp.split(dense(recurrent, "recurrent", memory), 3, axis=-1)
            new = jnp.tanh(
                x_new + jax.nn.sigmoid(x_reset + h_reset) * (h_new + weights["cell/recurrent_bias"][:, None])
            )
            update = jax.nn.sigmoid(x_update + h_update)
            memory = (1.0 - update) * new + update * memory
            return memory, memory

        memory, memories = jax.lax.scan(step, memory, (x, reset))
        memories, restore = merge_time(memories)
        if not self.deep_head:
            memories = activate(self.activation, memories)
        return restore(_stack(weights, memories, len(self.head), self.activation, self.layer_norm, dense)), memory


def stack_leaves(inputs: int, hidden: tuple[int, ...], outputs: int, output_gain: float) -> dict[str, Leaf]:
    """Leaves of hidden layers (gain sqrt 2) and a linear output layer."""
    leaves: dict[str, Leaf] = {}
    for i, size in enumerate(hidden):
        leaves |= dense_leaves(f"hidden_{i}", inputs, size, float(np.sqrt(2)))
        inputs = size
    return leaves | dense_leaves("output", inputs, outputs, output_gain)


def _stack(
    weights: Weights, x: jax.Array, depth: int, activation: Activation, layer_norm: bool, dense: Dense
) -> jax.Array:
    x = normalize(x, layer_norm)
    for i in range(depth):
        x = normalize(activate(activation, dense(weights, f"hidden_{i}", x)), layer_norm)
    return dense(weights, "output", x)


def merge_time(x: jax.Array) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """[T, N, B, I] -> [N, T·B, I], so that time is just more batch, and the way back."""
    time, agents, batch, size = x.shape

    def restore(y: jax.Array) -> jax.Array:
        return jnp.moveaxis(y.reshape(y.shape[0], time, batch, -1), 1, 0)

    return jnp.moveaxis(x, 0, 1).reshape(agents, time * batch, size), restore


@dataclass(frozen=True)
class Vector:
    """A learned vector that depends on nothing (the log standard deviations of a Gaussian policy); never generated."""

    size: int
    initial: float = 0.0

    def leaves(self) -> dict[str, Leaf]:
        return {"value": Leaf((self.size,), initial=self.initial, generated=False)}

    def start(self, num_agents: int, batch: int) -> jax.Array:
        return jnp.zeros((num_agents, batch, 0), jnp.float32)

    def unroll(
        self, weights: Weights, x: jax.Array, memory: jax.Array, reset: jax.Array, dense: Dense = dense
    ) -> tuple[jax.Array, jax.Array]:
        raise TypeError("a Vector is read, not unrolled")
