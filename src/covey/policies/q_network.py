"""Action values of all agents, with weights from any sharing scheme.

Letters: T time, N agents, B batch, O obs, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax

from covey.policies.actor_critic import ActorCritic, PolicyConfig
from covey.policies.hypernet import Hypernetwork
from covey.policies.networks import Network, Weights


@dataclass(frozen=True)
class QNetwork(ActorCritic):
    """One network per agent, in place of actor and critic, with a value per action; else as `ActorCritic`.

    It is built as an actor is, whose small output layer lets all values start near 0. A hypernetwork generates it
    whatever `config.generate` says. Use `memory` and `q`; there is no policy or value to ask for.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.config.sharing == "dico":
            raise ValueError("sharing is 'dico'; allowed with values of actions: the others")
        if isinstance(self.scheme, Hypernetwork):
            object.__setattr__(self, "scheme", replace(self.scheme, generate=("q",)))

    def _networks(self, config: PolicyConfig) -> dict[str, Network]:
        return {"q": super()._networks(config)["actor"]}

    def memory(self, batch: int) -> jax.Array:
        """Memories at the start of an episode, [N, B, H] (H = 0 without recurrence)."""
        return self.networks["q"].start(self.num_agents, batch)

    def q(
        self, weights: dict[str, Weights], obs: jax.Array, memory: jax.Array, reset: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Values [T, N, B, A] and the next memory, from obs [T, N, B, O] and reset bool[T, 1, B]."""
        x = self.scheme.identify(obs.astype(self.obs_dtype))
        return self.scheme.unroll(self.networks["q"], weights["q"], x, memory, reset)
