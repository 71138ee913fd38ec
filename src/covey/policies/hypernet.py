"""Hypernetworks: an agent's embedding e_i is turned into that agent's weights (HyperMARL, arXiv 2412.04233, §4).

    theta_i = h_psi(e_i)        y = f(x; theta_i)

Identity goes into the generator, the observation into the generated network, and nothing else into either, so that

    grad_psi J = sum_i  J_i Z_i,   J_i = d theta_i / d psi,   Z_i = E[A grad_theta_i log pi_theta_i]   (paper, eq. 4).

`hidden = ()` is the paper's linear variant, theta_i = e_i W + b; with one-hot embeddings and no b it is NoPS exactly.
With hidden layers it is the MLP variant: every generated array has its own small network of ReLU layers ("trunk") on
the embedding, followed by a linear head. All trunks of a network run as one batched product.

Letters: N agents, E embedding size, K trunks, H trunk width, B batch, I inputs, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from covey.policies.networks import MLP, Leaf, Network, Weights, orthogonal
from covey.policies.sharing import Networks, SharingScheme, keyed_leaves, keyed_networks, per_agent

Params: TypeAlias = dict[str, jax.Array]


@dataclass(frozen=True)
class Hypernetwork(SharingScheme):
    """Generated weights. Leaves that a network marks as not generated (a GRU) are shared by all agents, as in the
    paper.

    embedding_dim, one_hot: size of the learned embeddings, or constant one-hot ones of size N.
    hidden: widths of the trunk's layers; () for the linear variant.
    head_bias: whether a head that makes a whole array has an offset that all agents share.
    head: "full"; "low_rank" generates two factors of each matrix; "chunked" generates it in pieces of `chunk_size` by
        one small head, told apart by learned chunk embeddings. Matrices of these two, which the paper does not have,
        always start with the standard RMS.
    shared_trunk: one trunk per network instead of one per generated array.
    separate_embeddings: one table of embeddings per network instead of one for all.
    init_style: how generated weights start.
        "paper": each row of a head is an independent orthogonal matrix, bias heads are zero (the paper's "reset fan").
            Right for the linear one-hot case; for MLPs the scale is off by the norm of the features, a factor 0.6 to 4.
        "exact": features are kept at unit length and each head is corrected by its measured scale, so that generated
            weights start with the standard RMS whatever E, H and N are.
        "default": heads start like any dense layer (the paper's ablation "without reset fan").
    generate: the networks that are generated; others are shared by all agents.

    Trunks start as the authors' do: by LeCun's normal, before a recurrent network's head orthogonal with gain sqrt 2.
    """

    embedding_dim: int = 4
    one_hot: bool = False
    hidden: tuple[int, ...] = (64,)
    head_bias: bool = True
    head: Literal["full", "low_rank", "chunked"] = "full"
    rank: int = 8
    chunk_size: int = 1024
    shared_trunk: bool = False
    separate_embeddings: bool = False
    init_style: Literal["paper", "exact", "default"] = "paper"
    generate: tuple[str, ...] = ("actor", "critic")
    embedding_gain: float = float(np.sqrt(2))

    @property
    def embedding_size(self) -> int:
        return self.num_agents if self.one_hot else self.embedding_dim

    def separate(self, networks: Networks) -> bool:
        whole = all(len(self.generated(name, network)) == len(network.leaves()) for name, network in networks.items())
        return self._row_per_agent and not self.head_bias and whole

    @property
    def _row_per_agent(self) -> bool:
        """A head's row i is agent i's weights, up to the shared offset."""
        return self.one_hot and not self.hidden and self.head == "full"

    def generated(self, name: str, network: Network) -> dict[str, int]:
        """The leaves of this network that are generated, each with the index of its trunk."""
        leaves = [leaf for leaf, spec in network.leaves().items() if spec.generated and name in self.generate]
        return {leaf: i for i, leaf in enumerate(leaves)}

    # --- Parameters ---

    def init(self, key: jax.Array, networks: Networks) -> Any:
        params: dict[str, Any] = {}
        if not self.one_hot:
            # Fold in a number that no network has.
            params["embedding"] = self._init_embeddings(jax.random.fold_in(key, len(networks)), networks)
        for name, network, key_network in keyed_networks(key, networks):
            params[name] = self._init_network(key_network, name, network, params)
        return params

    def _init_embeddings(self, key: jax.Array, networks: Networks) -> Any:
        """Orthogonal table(s) [N, E]: rows are orthogonal where N <= E, else columns are."""
        shape = (self.num_agents, self.embedding_dim)
        if not self.separate_embeddings:
            return self.embedding_gain * orthogonal(key, shape)
        names = [name for name in sorted(networks) if self.generated(name, networks[name])]
        keys = jax.random.split(key, len(names))
        return {name: self.embedding_gain * orthogonal(k, shape) for name, k in zip(names, keys, strict=True)}

    def _embedding(self, params: Any, name: str) -> jax.Array:
        """What identifies the agents to this network's generator, [N, E]."""
        if self.one_hot:
            return jnp.eye(self.num_agents, dtype=jnp.float32)
        table = params["embedding"]
        return table[name] if isinstance(table, dict) else table

    def _init_network(self, key: jax.Array, name: str, network: Network, tables: Any) -> Params:
        generated = self.generated(name, network)
        params: Params = {}
        features = None
        if generated:
            params |= self._init_trunks(jax.random.fold_in(key, len(network.leaves())), len(generated), network)
            if (self.init_style == "exact" or self.head != "full") and not self._row_per_agent:
                features = self._features(params, self._embedding(tables, name), len(generated))
        for leaf_name, leaf, key_leaf in keyed_leaves(key, network):
            if leaf_name not in generated:
                params[leaf_name] = leaf.init(key_leaf)
                continue
            head = self._init_head(key_leaf, leaf)
            if features is not None and leaf.rms > 0.0:
                start = _generate(head, leaf, features[generated[leaf_name]])
                main = next(iter(head))  # Weights are linear in a head's first array.
                rms = jnp.sqrt(jnp.mean(jnp.square(start)))  # 0 if no unit of a narrow trunk is active for any agent.
                head[main] *= jnp.where(rms > 0, leaf.rms / jnp.where(rms > 0, rms, 1.0), 1.0)
            params |= {f"{leaf_name}/{part}": value for part, value in head.items()}
        return params

    def _init_trunks(self, key: jax.Array, count: int, network: Network) -> Params:
        """Trunk layers of all heads, stacked: kernels [K, in, out], biases [K, out]."""
        params: Params = {}
        size, recurrent = self._trunk_inputs(network), network.start(1, 1).shape[-1] > 0
        for i, width in enumerate(self.hidden):
            trunks, key_layer = 1 if self.shared_trunk else count, jax.random.fold_in(key, i)
            if recurrent:
                kernels = jax.vmap(lambda k, shape=(size, width): orthogonal(k, shape))(
                    jax.random.split(key_layer, trunks)
                )
                params[f"trunk_{i}/kernel"] = float(np.sqrt(2)) * kernels
            else:
                lecun = jax.nn.initializers.lecun_normal(in_axis=1, out_axis=2, batch_axis=0)
                params[f"trunk_{i}/kernel"] = lecun(key_layer, (trunks, size, width), jnp.float32)
            params[f"trunk_{i}/bias"] = jnp.zeros((trunks, width), jnp.float32)
            size = width
        return params

    def _trunk_inputs(self, network: Network) -> int:
        return self.embedding_size

    def _init_head(self, key: jax.Array, leaf: Leaf) -> Params:
        """One generated array's head: a row per feature, each an independent standard initialisation of that array."""
        rows = self.hidden[-1] if self.hidden else self.embedding_size
        key_first, key_second = jax.random.split(key)
        if len(leaf.shape) == 2 and self.head == "low_rank":
            rank = min(self.rank, *leaf.shape)
            left, right = Leaf((leaf.shape[0], rank), 1.0), Leaf((rank, leaf.shape[1]), 1.0)
            scale = leaf.rms / (np.sqrt(rank) * left.rms * right.rms)  # The product has the RMS of the full matrix.
            return {"left": per_agent(left, key_first, rows) * scale, "right": per_agent(right, key_second, rows)}
        if len(leaf.shape) == 2 and self.head == "chunked":
            size = min(self.chunk_size, leaf.size)
            return {
                "chunk_head": jax.random.normal(key_first, (rows, size), jnp.float32) * leaf.rms,
                "chunk": jax.random.normal(key_second, (-(-leaf.size // size), rows), jnp.float32),
            }
        if self.init_style == "default":
            lecun = jax.nn.initializers.lecun_normal()
            head = {"head": lecun(key, (rows, leaf.size), jnp.float32).reshape(rows, *leaf.shape)}
        else:
            head = {"head": per_agent(leaf, key, rows)}  # The key as it is: rows start as NoPS's agents do.
        return head | ({"head_bias": jnp.zeros(leaf.shape, jnp.float32)} if self.head_bias else {})

    # --- Weights ---

    def weights(self, params: Any, networks: Networks) -> dict[str, Weights]:
        return {name: self._generate_network(params, name, network) for name, network in networks.items()}

    def _generate_network(self, params: Any, name: str, network: Network) -> Weights:
        own, generated = params[name], self.generated(name, network)
        weights = {leaf: own[leaf][None] for leaf in network.leaves() if leaf not in generated}
        features = None
        if generated and not self._row_per_agent:
            features = self._features(own, self._embedding(params, name), len(generated))
        for leaf_name, index in generated.items():
            head = _part(own, leaf_name)
            if features is None:  # A one-hot embedding picks row i: no product.
                weights[leaf_name] = head["head"] + head.get("head_bias", 0.0)
            else:
                weights[leaf_name] = _generate(head, network.leaves()[leaf_name], features[index])
        return weights

    def _features(self, params: Params, x: jax.Array, count: int) -> jax.Array:
        """What the heads see, [K, N, H], from generator inputs [N, E]; `count` = K heads."""
        x = jnp.broadcast_to(x, (1 if self.shared_trunk else count, *x.shape))
        for i in range(len(self.hidden)):
            x = jnp.einsum("kne,keh->knh", x, params[f"trunk_{i}/kernel"]) + params[f"trunk_{i}/bias"][:, None]
            x = jax.nn.relu(x)
        if self.init_style == "exact":
            x = x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)
        return jnp.broadcast_to(x, (count, *x.shape[1:]))


@dataclass(frozen=True)
class CoupledHypernetwork(Hypernetwork):
    """The paper's ablation "without gradient decoupling": the generator sees [o_t, e_i], and weights are made per
    sample.

    Feed-forward networks only. The generated matrix of a sample is never written out: with features f and a head of
    rows Q_h, x W = sum_h f_h (x Q_h).
    """

    def __post_init__(self) -> None:
        if self.head != "full" or not self.hidden or self.init_style == "exact":
            raise ValueError(
                "without gradient decoupling the hypernetwork needs head 'full', at least one hidden layer, "
                f"and init 'paper' or 'default'; got {self.head!r}, {self.hidden}, {self.init_style!r}"
            )

    def _trunk_inputs(self, network: Network) -> int:
        if not isinstance(network, MLP):
            raise ValueError(f"without gradient decoupling only feed-forward networks work; got {network}")
        return network.inputs + self.embedding_size

    def _generate_network(self, params: Any, name: str, network: Network) -> Weights:
        if not self.generated(name, network):
            return super()._generate_network(params, name, network)
        return params[name] | {"embedding": self._embedding(params, name)}  # Weights come into being in `unroll`.

    def unroll(
        self, network: Network, weights: Weights, x: jax.Array, memory: jax.Array, reset: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        if "embedding" not in weights:
            return super().unroll(network, weights, x, memory, reset)
        names = list(network.leaves())
        agents, size = weights["embedding"].shape
        x = jnp.broadcast_to(x, (x.shape[0], agents, *x.shape[2:]))
        samples = jnp.moveaxis(x, 0, 1).reshape(agents, -1, x.shape[-1])  # [N, T·B, I]
        ids = jnp.broadcast_to(weights["embedding"][:, None], (*samples.shape[:2], size))
        inputs = jnp.concatenate([samples, ids], axis=-1).reshape(-1, x.shape[-1] + size)
        features = self._features(weights, inputs, len(names)).reshape(len(names), *samples.shape[:2], -1)

        def dense(weights: Weights, name: str, x: jax.Array) -> jax.Array:
            kernel, bias = _part(weights, f"{name}/kernel"), _part(weights, f"{name}/bias")
            f_kernel, f_bias = features[names.index(f"{name}/kernel")], features[names.index(f"{name}/bias")]
            y = jnp.einsum("nbh,nbi,hio->nbo", f_kernel, x, kernel["head"]) + f_bias @ bias["head"]
            return y + (x @ kernel["head_bias"] + bias["head_bias"] if self.head_bias else 0.0)

        return network.unroll(weights, x, memory, reset, dense)


def _part(params: Params, leaf_name: str) -> Params:
    """The head of one leaf."""
    prefix = f"{leaf_name}/"
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}


def _generate(head: Params, leaf: Leaf, features: jax.Array) -> jax.Array:
    """One leaf for all agents, [N, *shape], from features [N, H]."""
    if "left" in head:
        return _combine(features, head["left"]) @ _combine(features, head["right"])
    if "chunk" in head:
        pieces = jnp.einsum("nh,ch,hs->ncs", features, head["chunk"], head["chunk_head"])
        return pieces.reshape(features.shape[0], -1)[:, : leaf.size].reshape(-1, *leaf.shape)
    return _combine(features, head["head"]) + head.get("head_bias", 0.0)


def _combine(features: jax.Array, rows: jax.Array) -> jax.Array:
    """Sums of the rows [H, ...] weighted by the features [N, H]: [N, ...]."""
    return _product(features, rows.reshape(rows.shape[0], -1)).reshape(features.shape[0], *rows.shape[1:])


@jax.custom_vjp
def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """a b, whose gradient with respect to b is computed as aᵀ g.

    JAX's own rule computes (gᵀ a)ᵀ. For a head, the largest array there is, XLA on CPU then carries the transposition
    through clipping and Adam, and an update takes a third longer.
    """
    return a @ b


_product.defvjp(lambda a, b: (a @ b, (a, b)), lambda saved, g: (g @ saved[1].T, saved[0].T @ g))
