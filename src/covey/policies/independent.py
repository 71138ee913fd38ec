"""Own actors and one critic: the sharing scheme of sequential policy updates (HAPPO), where a team has one value.

Parameters have the agent axis first in "actor" and "log_std", and no such axis in "critic".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

from covey.policies.networks import Weights
from covey.policies.sharing import Networks, SharingScheme, keyed_leaves, keyed_networks, per_agent


@dataclass(frozen=True)
class IndependentActors(SharingScheme):
    """Every agent has its own weights of each network but those named in `shared`, which all agents use alike.

    A critic that sees no agent id then has one value of a state (or of an observation, if it is not centralised).
    """

    shared: tuple[str, ...] = ("critic",)

    def separate(self, networks: Networks) -> bool:
        return not any(name in self.shared for name in networks)

    def init(self, key: jax.Array, networks: Networks) -> Any:
        return {
            name: {
                leaf: spec.init(k) if name in self.shared else per_agent(spec, k, self.num_agents)
                for leaf, spec, k in keyed_leaves(key_network, network)
            }
            for name, network, key_network in keyed_networks(key, networks)
        }

    def weights(self, params: Any, networks: Networks) -> dict[str, Weights]:
        return {
            name: {leaf: value[None] for leaf, value in own.items()} if name in self.shared else own
            for name, own in params.items()
        }
