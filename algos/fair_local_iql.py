"""Fair&Local IQL: recurrent Q-learners that mind how others fare by their own measure, as far as they see it or are
told.

"Fairness over Equality", arXiv 2602.15407; equations as in its authors' code, see `covey.social`.

    u_i = r_i - w_i / (N - 1) sum_j [alpha max(V_ij - v_i, 0) + beta max(v_i - V_ij, 0)]
    y_i = u_i + gamma max_a Q'_i(h_i', a),   Q_i <- y_i                         each agent its own network and optimiser

    --social.method fair_local_ia   inequity aversion with these changes (the default)
    --social.method fair_local_svo  social value orientation with these changes
    --social.normalise none --social.weighting none --social.feedback global    take them back, one by one

`--preset-scale paper` has the paper's settings. What deviates, and why: `covey.learners.recurrent_q`. Everything that
is measured (`episode_return`, equality, ...) is of the environment's own rewards; `shaped_return` is what agents learn
on. Presets are the paper's games and compositions, and Cleanup as an extension of ours.
"""

from algos.dilemmas_q import main, presets

PRESETS = presets("fair_local_ia")

if __name__ == "__main__":
    main("fair_local_iql", __doc__, PRESETS)
