"""HyperMARL-IPPO: a hypernetwork turns each agent's embedding into the weights of its own actor and critic.

Tessera, Rahman, Storkey, Albrecht: HyperMARL: Adaptive Hypernetworks for Multi-Agent RL, arXiv 2412.04233v4.

    theta_i = h_psi(e_i),   phi_i = h_phi(e_i),   a_i ~ pi_theta_i(. | o_i)                      (section 4.1)

Identity enters the generator and the observation enters the generated network, so that an agent's gradient with respect
to psi is its generator's Jacobian times a mean over its own observations (section 4.3, equation 4). All else is IPPO:
PPO where each agent's critic sees that agent's observation.

    --sharing hyper_mlp     learned embeddings, a trunk of ReLU layers per generated array, linear heads (the default)
    --sharing hyper_linear  one-hot embeddings, linear heads only

What deviates from the authors' code, and why:
* weights are generated once per rollout and once per gradient step, and each agent's network runs on its own samples
  only; theirs generates at every call and runs every agent's network on every sample (same result, N times the work);
* episodes that are cut off are bootstrapped from the state they were cut at; theirs treats them as ended;
* minibatches hold every agent equally often (the same time steps for all agents);
* recurrent actors and critics have a GRU each; theirs share one.
`--hypernet-init exact` corrects the scale of generated weights, which is up to four times too large in the paper's way.
"""

from algos.tasks import main, presets

PRESETS = presets(sharing="hyper_mlp", embedding_dim=4, hypernet_hidden_sizes=(64,))

if __name__ == "__main__":
    main("hypermarl_ippo", __doc__, PRESETS, centralised_critic=False)
