"""An actor and a critic for all agents, with weights from any sharing scheme.

Letters: T time, N agents, B batch, O obs, A actions (or action dimensions), G global state.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from covey.policies.dico import Bounds, DiversityControl
from covey.policies.encoders import Encoded, EncoderName, GridEncoder, make_encoder
from covey.policies.hypernet import CoupledHypernetwork, Hypernetwork
from covey.policies.independent import IndependentActors
from covey.policies.networks import GRU, MLP, Activation, Network, Vector, Weights
from covey.policies.sharing import FullSharing, NoSharing, SharingScheme, count_parameters

SharingName: TypeAlias = Literal[
    "fups", "fups_id", "fups_id_only", "fups_matched", "nops", "nops_actors", "hyper_linear", "hyper_mlp", "dico"
]


@dataclass(frozen=True)
class PolicyConfig:
    """Networks, and which weights agents share."""

    sharing: SharingName = "hyper_mlp"
    """Who shares weights: `fups` one network for all; `fups_id` with a one-hot agent id; `fups_id_only` sees the id
    alone; `fups_matched` is fups_id widened to hyper_mlp's parameter count; `nops` one network per agent;
    `nops_actors` one actor per agent and one critic for all; `hyper_linear` and `hyper_mlp` generate each agent's
    weights from its embedding; `dico` adds scaled deviations to one policy for all, so that diversity is as desired."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Units in each hidden layer of actor and critic (of feed-forward networks)."""
    activation: Activation = "relu"
    """Activation of actor and critic."""
    layer_norm: bool = False
    """Normalise each sample's observation, and what leaves each hidden layer of actor and critic, over its units."""
    initial_std: float = 1.0
    """Standard deviation that continuous actions start with; it is learned, and no hypernetwork generates it."""
    max_std: float | None = None
    """What that standard deviation stays below: it is then max_std times a sigmoid of what is learned."""
    recurrent: bool = False
    """Use a gated recurrent unit in actor and critic; hypernetworks then generate the layers after it."""
    recurrent_size: int = 128
    """Units of the recurrent networks' layers."""
    recurrent_head: bool = True
    """A hidden layer between recurrent unit and output; without it the output layer follows the (activated) memory."""
    encoder: EncoderName = "auto"
    """How observations enter actor and critic: `flat` as numbers; `symbols` as grids of codes, `pixels` as grids of 8x8
    sprites, through an encoder that a hypernetwork does not generate; `auto` by their shape and type."""
    encoder_codes: tuple[int, ...] = (9, 8)
    """Codes in each plane of symbols; further planes are one number each for the whole grid."""
    encoder_channels: int = 8
    """Numbers per cell after the encoder's first layer."""
    conv_channels: tuple[int, ...] = ()
    """Channels of each 3x3 convolution of the encoder."""
    encoder_size: int = 64
    """Units of the layer in which the encoder ends; 0 for none."""
    embedding: Literal["learned", "one_hot"] | None = None
    """What identifies an agent to the hypernetwork; by default one_hot for hyper_linear and learned for hyper_mlp."""
    embedding_dim: int = 4
    """Size of learned embeddings."""
    hypernet_hidden_sizes: tuple[int, ...] = (64,)
    """Units in each hidden layer of hyper_mlp's generator."""
    hypernet_bias: bool = True
    """Add an offset that all agents share to the generated weights."""
    hypernet_head: Literal["full", "low_rank", "chunked"] = "full"
    """How matrices are generated: whole, as a product of two thin factors, or in chunks by one small head."""
    hypernet_rank: int = 8
    """Rank of a low_rank head's products."""
    hypernet_chunk_size: int = 1024
    """Numbers per piece of a chunked head."""
    hypernet_shared_trunk: bool = False
    """One generator trunk per network instead of one for each generated array."""
    hypernet_init: Literal["paper", "exact", "default"] = "paper"
    """How generated weights start: as in the paper, at exactly the standard scale, or like any layer (without reset
    fan)."""
    hypernet_decoupled: bool = True
    """False is the ablation without gradient decoupling: the generator also sees the observation, once per sample."""
    separate_embeddings: bool = False
    """One table of embeddings each for actor and critic instead of one for both."""
    generate: Literal["both", "actor"] = "both"
    """What the hypernetwork generates; with `actor` the critic is one network for all agents."""

    desired_snd: float = -1.0
    """System neural diversity that `dico` keeps its policies at, a distance of means in units of half an action's range
    (of logits, if actions are discrete): 0 makes them equal, -1 leaves them unconstrained."""
    snd_rate: float = 0.01
    """How far `dico`'s estimate of diversity moves to that of a minibatch at each gradient step, tau."""
    snd_observations: int = 0
    """How many of a minibatch's observations, all agents' together, `dico` measures diversity on, evenly spaced; 0 for
    all of them, of which every agent's network sees every agent's: the square of the agents' number."""

    def __post_init__(self) -> None:
        for name in ("recurrent_size", "embedding_dim", "hypernet_rank", "hypernet_chunk_size", "encoder_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: an integer of at least 1")
        if self.encoder_size < 0:
            raise ValueError(f"encoder_size is {self.encoder_size}; allowed: an integer of at least 0")
        if any(not 1 <= count <= 256 for count in self.encoder_codes):
            raise ValueError(f"encoder_codes is {self.encoder_codes}; allowed: integers from 1 to 256")
        for name in ("hidden_sizes", "hypernet_hidden_sizes", "conv_channels"):
            if any(size < 1 for size in getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: integers of at least 1")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                choices = ", ".join(str(choice) for choice in allowed)
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {choices}")
        if self.sharing == "hyper_mlp" and not self.hypernet_hidden_sizes:
            raise ValueError("hypernet_hidden_sizes is empty; hyper_mlp needs a layer (hyper_linear has none)")
        if not self.hypernet_decoupled and self.recurrent:
            raise ValueError("hypernet_decoupled is False with recurrent; allowed: feed-forward networks only")
        if not 0 < self.initial_std < np.inf:
            raise ValueError(f"initial_std is {self.initial_std}; allowed: a number above 0")
        if self.max_std is not None and not self.initial_std < self.max_std < np.inf:
            raise ValueError(
                f"max_std is {self.max_std}; allowed: a number above initial_std ({self.initial_std}), or None"
            )
        if self.desired_snd != -1 and not 0 <= self.desired_snd < np.inf:
            raise ValueError(f"desired_snd is {self.desired_snd}; allowed: at least 0, or -1 for no constraint")
        if not 0 < self.snd_rate <= 1:
            raise ValueError(f"snd_rate is {self.snd_rate}; allowed: a number above 0 and up to 1")
        if self.snd_observations < 0:
            raise ValueError(f"snd_observations is {self.snd_observations}; allowed: an integer of at least 0")
        if self.sharing == "fups_matched" and not self.hidden_sizes and not self.recurrent:
            raise ValueError("hidden_sizes is empty; fups_matched needs a layer to widen")
        if self.sharing == "dico" and self.recurrent:
            raise ValueError("sharing is 'dico' with recurrent; allowed: feed-forward networks only")


_CHOICES: dict[str, tuple] = {
    "sharing": SharingName.__args__,
    "activation": Activation.__args__,
    "encoder": EncoderName.__args__,
    "embedding": ("learned", "one_hot", None),
    "hypernet_head": ("full", "low_rank", "chunked"),
    "hypernet_init": ("paper", "exact", "default"),
    "generate": ("both", "actor"),
}


def make_scheme(config: PolicyConfig, num_agents: int, action_bounds: Bounds | None = None) -> SharingScheme:
    """The sharing scheme that `config` names, for this many agents, whose continuous actions have these bounds."""
    if config.sharing == "nops":
        return NoSharing(num_agents)
    if config.sharing == "nops_actors":
        return IndependentActors(num_agents)
    if config.sharing == "dico":
        if num_agents < 2 and config.desired_snd > 0:
            raise ValueError(f"desired_snd is {config.desired_snd} with {num_agents} agent; allowed: 0, or -1")
        return DiversityControl(num_agents, config.desired_snd, config.snd_rate, config.snd_observations, action_bounds)
    if not config.sharing.startswith("hyper"):
        identity = {"fups": "none", "fups_id_only": "only"}.get(config.sharing, "append")
        return FullSharing(num_agents, identity)  # type: ignore[arg-type]
    linear = config.sharing == "hyper_linear"
    return (Hypernetwork if config.hypernet_decoupled else CoupledHypernetwork)(
        num_agents,
        embedding_dim=config.embedding_dim,
        one_hot=(config.embedding or ("one_hot" if linear else "learned")) == "one_hot",
        hidden=() if linear else config.hypernet_hidden_sizes,
        head_bias=config.hypernet_bias,
        head=config.hypernet_head,
        rank=config.hypernet_rank,
        chunk_size=config.hypernet_chunk_size,
        shared_trunk=config.hypernet_shared_trunk,
        separate_embeddings=config.separate_embeddings,
        init_style=config.hypernet_init,
        generate=("actor", "critic") if config.generate == "both" else ("actor",),
    )


@dataclass(frozen=True)
class ActorCritic:
    """Policy and value of every agent.

    centralised: the critic sees the global state, without agent ids (MAPPO); else each agent's observation (IPPO).
    obs_space: the space of the observations, which come flattened, for `config.encoder`; None for numbers.
    continuous: the actor gives the mean of a diagonal Gaussian whose log standard deviations are learned and do not
        depend on the observation, not clipped, starting at 0; else logits.
    action_bounds: of continuous actions, for `dico`; None for -1 and 1.
    """

    config: PolicyConfig
    num_agents: int
    obs_size: int
    num_outputs: int
    continuous: bool = False
    global_size: int | None = None
    obs_space: Any = None
    action_bounds: Bounds | None = None
    scheme: SharingScheme = field(init=False)
    encoder: GridEncoder | None = field(init=False, hash=False, compare=False)
    networks: dict[str, Network] = field(init=False, hash=False, compare=False)

    def __post_init__(self) -> None:
        bounds = (self.action_bounds or (-1.0, 1.0)) if self.continuous else None
        object.__setattr__(self, "scheme", make_scheme(self.config, self.num_agents, bounds))
        object.__setattr__(self, "encoder", self._encoder())
        object.__setattr__(self, "networks", self._networks(self.config))
        if self.config.sharing == "fups_matched":
            object.__setattr__(self, "networks", self._networks(self._matched()))

    @property
    def centralised(self) -> bool:
        return self.global_size is not None

    @property
    def separate(self) -> bool:
        """Whether agents share no parameter."""
        return self.scheme.separate(self.networks)

    @property
    def own(self) -> frozenset[str]:
        """Names of the networks of which agents share no parameter."""
        return frozenset(name for name, network in self.networks.items() if self.scheme.separate({name: network}))

    @property
    def obs_dtype(self) -> Any:
        """What type observations are to be given in: bytes to an encoder, which are a quarter of the memory."""
        return jnp.float32 if self.encoder is None else jnp.uint8

    def _encoder(self) -> GridEncoder | None:
        config = self.config
        if self.obs_space is None or config.sharing == "fups_id_only":  # Observations are not looked at.
            return None
        return make_encoder(
            config.encoder, self.obs_space, config.encoder_codes, config.encoder_channels, config.conv_channels,
            config.encoder_size,
        )  # fmt: skip

    def _networks(self, config: PolicyConfig) -> dict[str, Network]:
        def network(inputs: int, outputs: int, output_gain: float, encoder: GridEncoder | None) -> Network:
            if encoder is not None:
                around = inputs - encoder.inputs
                return Encoded(encoder, network(encoder.features + around, outputs, output_gain, None))
            if config.recurrent:
                return GRU(
                    inputs, outputs, config.recurrent_size, config.activation, output_gain, config.recurrent_head,
                    config.layer_norm,
                )  # fmt: skip
            return MLP(inputs, outputs, config.hidden_sizes, config.activation, output_gain, config.layer_norm)

        own = self.scheme.input_size(self.obs_size)
        networks = {
            "actor": network(own, self.num_outputs, 0.01, self.encoder),
            "critic": network(own, 1, 1.0, self.encoder)
            if self.global_size is None
            else network(self.global_size, 1, 1.0, None),
        }
        if not self.continuous:
            return networks
        std = config.initial_std
        start = np.log(std) if config.max_std is None else np.log(std / (config.max_std - std))
        return networks | {"log_std": Vector(self.num_outputs, float(start))}

    def _matched(self) -> PolicyConfig:
        """This config with hidden layers widened in proportion until its parameters come closest to hyper_mlp's."""
        config = self.config
        target = replace(self, config=replace(config, sharing="hyper_mlp")).count_parameters()

        def widened(factor: float) -> PolicyConfig:
            sizes = tuple(max(1, round(size * factor)) for size in config.hidden_sizes)
            return replace(config, hidden_sizes=sizes, recurrent_size=max(1, round(config.recurrent_size * factor)))

        def error(factor: float) -> int:
            return abs(count_parameters(self.scheme, self._networks(widened(factor))) - target)

        low, high = 0.0, 1.0
        while count_parameters(self.scheme, self._networks(widened(high))) < target:
            low, high = high, 2 * high
        for _ in range(12):
            middle = 0.5 * (low + high)
            below = count_parameters(self.scheme, self._networks(widened(middle))) < target
            low, high = (middle, high) if below else (low, middle)
        return widened(min((low, high), key=error))

    def count_parameters(self) -> int:
        """How many numbers are trained."""
        return count_parameters(self.scheme, self.networks)

    def init(self, key: jax.Array) -> Any:
        """Trainable parameters."""
        return self.scheme.init(key, self.networks)

    def weights(self, params: Any) -> dict[str, Weights]:
        """Every agent's weights; call it once per rollout and once per gradient step."""
        return self.scheme.weights(params, self.networks)

    def measure(self, params: Any, obs: jax.Array) -> Any:
        """`params` with what the scheme keeps of its networks' behaviour brought up to these obs [T, N, B, O]."""
        if not isinstance(self.scheme, DiversityControl):
            return params
        return self.scheme.measure(params, self.networks, self.scheme.identify(obs))

    def start(self, batch: int) -> tuple[jax.Array, jax.Array]:
        """Memories of actor [N, B, H] and critic [N or 1, B, H] at the start of an episode."""
        critic_agents = 1 if self.centralised and not self.separate else self.num_agents
        return (
            self.networks["actor"].start(self.num_agents, batch),
            self.networks["critic"].start(critic_agents, batch),
        )

    def policy(
        self, weights: dict[str, Weights], obs: jax.Array, memory: jax.Array, reset: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Logits or means [T, N, B, A] and the actor's next memory, from obs [T, N, B, O] and reset bool[T, 1, B]."""
        x = self.scheme.identify(obs)
        return self.scheme.unroll(self.networks["actor"], weights["actor"], x, memory, reset)

    def value(
        self, weights: dict[str, Weights], critic_input: jax.Array, memory: jax.Array, reset: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Values [T, N, B] and the critic's next memory, from obs [T, N, B, O] or, centralised, states [T, 1, B, G]."""
        x = critic_input if self.centralised else self.scheme.identify(critic_input)
        values, memory = self.scheme.unroll(self.networks["critic"], weights["critic"], x, memory, reset)
        time, _, batch, _ = values.shape
        return jnp.broadcast_to(values[..., 0], (time, self.num_agents, batch)), memory

    def log_std(self, weights: dict[str, Weights]) -> jax.Array:
        """Log standard deviations of a continuous policy, broadcastable to [T, N, B, A]."""
        value = weights["log_std"]["value"][:, None]
        return value if self.config.max_std is None else np.log(self.config.max_std) + jax.nn.log_sigmoid(value)
