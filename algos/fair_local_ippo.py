"""Fair&Local IPPO: PPO whose agents mind how others fare by their own measure, as far as they see it or are told.

"Fairness over Equality", arXiv 2602.15407; equations as in its authors' code, see `covey.social`.

    e_i = gamma lambda e_i + r_i,   v_i = (e_i - m_i) / (M_i - m_i)             relative to each agent's own range
    V_ij = v_j as i last saw it or was told of it                               local feedback
    u_i = r_i - w_i / (N - 1) sum_j [alpha max(V_ij - v_i, 0) + beta max(v_i - V_ij, 0)]

    --social.method fair_local_ia   inequity aversion with these changes (the default)
    --social.method fair_local_svo  social value orientation with these changes
    --social.normalise none --social.weighting none --social.feedback global    take them back, one by one

What deviates from the paper: it learns by recurrent Q-learning (`fair_local_iql`); here each agent is PPO, as in its
author's later code. Ranges are those of each of the parallel environments, as there. Everything that is measured
(`episode_return`, equality, ...) is of the environment's own rewards; `shaped_return` is what agents learn on.
Presets are the paper's games and compositions, and Cleanup as an extension of ours.
"""

from algos.dilemmas import main, presets

PRESETS = presets("fair_local_ia")

if __name__ == "__main__":
    main("fair_local_ippo", __doc__, PRESETS)
