"""DiCo: one policy for all agents plus each agent's own deviation, scaled so that their diversity is as desired.

Bettini, Kortvelesy, Prorok: Controlling Behavioral Diversity in Multi-Agent Reinforcement Learning, arXiv 2405.15054.

    --desired-snd D         keep the mean distance between two agents' means at D; 0: equal policies, -1: unconstrained
    --snd-rate TAU          how fast the estimate of diversity follows minibatches
    --snd-observations N    on how many of a minibatch's observations it is measured (0: all)

Learner: IPPO, with a critic per agent as in the authors' settings. `src/covey/policies/dico.py` has the equations, and
what deviates from the authors' code.

Navigation's presets have the values that the HyperMARL paper settled on (arXiv 2412.04233v4, table 15, and its
scripts): 1.2 for two agents with goals of their own, -1 for more or with half the goals shared, 0 where all have one
goal. `navigation` is that with 4 agents and goals of their own; its small scale has 1.2 in place of -1, so that the
constraint is at work. The others' are ours: 1.2, and 2 where actions are discrete and the distance is one of logits.
At the small scale diversity is measured on 256 observations: a minibatch of 30 agents has 6000, which the networks of
all 30 would see. And there are half as many steps as IPPO's presets have, since DiCo's take twice as long.
SMAX is left out: its networks are recurrent, which DiCo's are not.
"""

from dataclasses import replace

import envs_jax
from algos.tasks import FEED_FORWARD, TASKS, Args, Lazy, changed, main, presets
from envs_jax.spaces import Box

SHARING = "dico"
OURS = {"continuous": 1.2, "discrete": 2.0}
# Agents, how many of them share a goal (1: none), desired diversity.
GOALS = {
    "navigation_2_different": (2, 1, 1.2),
    "navigation_2_same": (2, 2, 0.0),
    "navigation_4_different": (4, 1, -1.0),
    "navigation_4_half": (4, 2, -1.0),
    "navigation_4_same": (4, 4, 0.0),
    "navigation_8_different": (8, 1, -1.0),
    "navigation_8_half": (8, 4, -1.0),
    "navigation_8_same": (8, 8, 0.0),
}


def _preset(scale: str, args: Args, desired_snd: float) -> Args:
    policy = {"sharing": SHARING, "desired_snd": desired_snd}
    if scale == "paper":
        return changed(args, policy=policy)
    return changed(args, policy=policy | {"snd_observations": 256}, run={"total_steps": args.run.total_steps // 2})


def _navigation(agents: int, same: int, desired_snd: float) -> dict[str, Args]:
    env = envs_jax.make("navigation", num_agents=agents, agents_with_same_goal=same)
    return {scale: _preset(scale, replace(args, env=env), desired_snd) for scale, args in TASKS["navigation"].items()}


def _task(name: str) -> dict[str, Args]:
    scales = _TASKS[name]
    kind = "continuous" if isinstance(scales["small"].env.action_space(), Box) else "discrete"
    desired = {"paper": -1.0, "small": OURS[kind]} if name == "navigation" else dict.fromkeys(scales, OURS[kind])
    return {scale: _preset(scale, args, desired[scale]) for scale, args in scales.items()}


_TASKS = presets()
PRESETS = Lazy(
    {name: lambda name=name: _task(name) for name in FEED_FORWARD}
    | {name: lambda numbers=numbers: _navigation(*numbers) for name, numbers in GOALS.items()}
)

if __name__ == "__main__":
    main("dico", __doc__, PRESETS, centralised_critic=False, sharing=SHARING)
