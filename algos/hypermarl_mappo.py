"""HyperMARL-MAPPO: generated actors, and generated critics that see the global state.

Tessera, Rahman, Storkey, Albrecht: HyperMARL: Adaptive Hypernetworks for Multi-Agent RL, arXiv 2412.04233v4.

As HyperMARL-IPPO (`hypermarl_ippo.py`, with equations and deviations), but each agent's generated critic is fed the
global state, without agent ids: identity enters through the generator alone. Embeddings have 8 numbers (table 11).
"""

from functools import partial

import envs_jax
from algos.tasks import build, for_env, presets
from covey.experiment import cli

PRESETS = presets(sharing="hyper_mlp", embedding_dim=8, hypernet_hidden_sizes=(64,))

if __name__ == "__main__":
    cli.main(
        "hypermarl_mappo",
        __doc__,
        PRESETS,
        build=partial(build, centralised_critic=True),
        for_env=for_env,
        env_ids=envs_jax.registered(),
    )
