"""HyperMARL-MATD3: a hypernetwork turns each agent's embedding into the weights of its deterministic actor.

Tessera, Rahman, Storkey, Albrecht: HyperMARL: Adaptive Hypernetworks for Multi-Agent RL, arXiv 2412.04233v4, table 7.

    theta_i = h_psi(e_i),   a_i = tanh f(o_i; theta_i)
    L_psi   = -mean_i mean Q_1(s, a_1, ..., tanh f(o_i; h_psi(e_i)), ..., a_N)

As in the paper there are two critics and no diversity loss; what else it does is MATD3 (`covey.learners.matd3`).

    --sharing hyper_mlp     learned embeddings, a trunk of ReLU layers per generated array, linear heads (the default)
    --sharing hyper_linear  one-hot embeddings, linear heads only
    --critic as_actor       a hypernetwork generates the critics, too; the paper does not say whether its does

The paper's sizes of embeddings and hypernetworks for MATD3 could not be had; those of its other tasks stand in.
"""

from algos.tasks_matd3 import main, presets

PRESETS = presets(sharing="hyper_mlp", embedding_dim=4, hypernet_hidden_sizes=(64,))

if __name__ == "__main__":
    main("hypermarl_matd3", __doc__, PRESETS)
