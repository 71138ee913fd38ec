"""HAPPO: agents with a network each take their PPO steps in turn, each told what those before it changed.

Kuba et al.: Trust Region Policy Optimisation in Multi-Agent Reinforcement Learning, arXiv 2109.11251.
Zhong et al.: Heterogeneous-Agent Reinforcement Learning, arXiv 2304.09870.

    M = A(s, a) prod_{agents before} pi_new / pi_old,   each agent: PPO's clipped loss with M in place of A

The order of agents is drawn anew in every update; one critic sees the global state and learns the mean of the agents'
rewards (`src/covey/learners/happo.py`). Presets are the tasks of the HyperMARL paper with its settings for PPO.

Deviations from the authors' code: advantages are normalised over each minibatch and not over the rollout, minibatches
are the same for all agents, and values are not normalised.
"""

from algos.tasks import main, presets
from covey.learners.happo import HAPPO

SHARING = "nops_actors"
PRESETS = presets("mappo", sharing=SHARING)

if __name__ == "__main__":
    main("happo", __doc__, PRESETS, centralised_critic=True, learner_type=HAPPO, sharing=SHARING)
