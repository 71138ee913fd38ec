"""HyperMARL-MAPPO: generated actors, and generated critics that see the global state.

Tessera, Rahman, Storkey, Albrecht: HyperMARL: Adaptive Hypernetworks for Multi-Agent RL, arXiv 2412.04233v4.

As HyperMARL-IPPO (`hypermarl_ippo.py`, with equations and deviations), but each agent's generated critic is fed the
global state, without agent ids: identity enters through the generator alone. Embeddings have 8 numbers (table 11);
SMAX has settings of its own for each map (`algos/tasks.py`).
"""

from algos.tasks import main, presets

PRESETS = presets("mappo", sharing="hyper_mlp", embedding_dim=8, hypernet_hidden_sizes=(64,))

if __name__ == "__main__":
    main("hypermarl_mappo", __doc__, PRESETS, centralised_critic=True)
