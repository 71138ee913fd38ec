"""CODA: offline multi-agent learning on diffusion-generated trajectories of the current joint policy.

Hedman, Tessera, Formanek, Sims, Zamboni, McInroe, Torr, Fosong: Coordination via On-Policy Diffusion for Multi-Agent
Offline Reinforcement Learning, arXiv 2604.23308.

    grad log p(tau; sigma) + lambda sum_t grad_{a_t} log pi(a_t | o_t)                       --mode policy (equation 14)
    (1 + w) grad log p(tau; sigma | y) - w grad log p(tau; sigma),   y = joint action        --mode cfg    (equation 3)

One program fits the denoiser to the dataset and then alternates between sampling segments for the policies as they are
and steps of an offline learner on them (Algorithm 2). The other modes are what CODA is compared with, in the same loop:
`none` (the dataset alone), `unconditional` (samples that follow nobody) and `q` (samples of high reward). `--base`
takes every learner of `baselines/offline.py`, and `--rollouts` adds a world model's rollouts to the batches.

On polynomial games the base is MADDPG with the payoff as its critic. Besides the presets the program takes any payoff
by its terms, each a coefficient and every player's exponent: payoff/-1:2,0/-1:0,2/-4:2,2/5:1,1 is Twin Peaks; and any
registered environment with `--dataset`. What the paper leaves open, and our choice, is in docs/coda.md.
"""

from algos.tasks_coda import main, presets

PRESETS = presets("policy")

if __name__ == "__main__":
    main("coda", __doc__, PRESETS, "policy")
