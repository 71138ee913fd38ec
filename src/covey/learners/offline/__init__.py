"""Offline multi-agent learners: from segments of a dataset, and of what is made of it.

    policy = PolicyConfig(sharing="fups_id", recurrent=True, recurrent_size=64)
    base = make_base("maddpg_bc", Team.of(env), policy, CriticConfig())
    data = source(dataset, base.team, horizon=20)
    learner = Offline(env, base, OfflineConfig(horizon=20))
    state, metrics = jax.jit(make_train(learner, num_updates=300))(seed_keys(0, 16), OfflineHyperparameters(), data)

The learners are MADDPG, MADDPG+BC, MADDPG+CQL and independent TD3+BC (`maddpg.py`), BC and IQL (`regression.py`), OMIGA
(`omiga.py`) and MADDPG with a known payoff (`analytic.py`); `base.py` says what they have in common, `segments.py` what
they learn from.
`learner.py` has the program, `world_model.py` the world model; CODA (`covey.diffusion`) is a program around it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from covey.learners.offline.analytic import AnalyticMADDPG
from covey.learners.offline.base import Acting, OfflineHyperparameters, OfflineLearner, OfflineState
from covey.learners.offline.learner import Made, Offline, OfflineCarry, OfflineConfig
from covey.learners.offline.maddpg import MADDPG, CriticConfig
from covey.learners.offline.omiga import OMIGA
from covey.learners.offline.regression import BC, IQL
from covey.learners.offline.segments import Segments, Source, Team, check_dataset, from_rows, gather, mix, source
from covey.learners.offline.world_model import WorldModel, WorldModelConfig
from covey.policies import PolicyConfig

BaseName = Literal["maddpg_bc", "maddpg", "maddpg_cql", "td3_bc", "iql", "omiga", "bc"]


def make_base(name: BaseName, team: Team, policy: PolicyConfig, config: CriticConfig) -> MADDPG | BC | IQL | OMIGA:
    """The offline learner of this name. `td3_bc` sets critics to see their own agent alone, one pair per agent unless
    `critic` is `as_actor`; `omiga`'s local values are each agent's own unless it is. Raises ValueError for other names,
    and where networks do not fit together."""
    if name not in get_args(BaseName):
        raise ValueError(f"base is {name!r}; allowed: {', '.join(get_args(BaseName))}")
    base: MADDPG | BC | IQL | OMIGA
    alone = "as_actor" if config.critic == "as_actor" else "per_agent"
    if name == "bc":
        base = BC(team, policy, config)
    elif name == "iql":
        base = IQL(team, policy, config)
    elif name == "omiga":
        base = OMIGA(team, policy, replace(config, critic=alone))
    elif name == "td3_bc":
        base = MADDPG(team, policy, replace(config, critic=alone, critic_input="own"), "bc")
    else:
        base = MADDPG(team, policy, config, {"maddpg": "none", "maddpg_bc": "bc", "maddpg_cql": "cql"}[name])  # type: ignore[arg-type]
    base.check()
    return base


__all__ = [
    "BC", "IQL", "MADDPG", "OMIGA", "Acting", "AnalyticMADDPG", "BaseName", "CriticConfig", "Made", "Offline",
    "OfflineCarry", "OfflineConfig", "OfflineHyperparameters", "OfflineLearner", "OfflineState", "Segments", "Source",
    "Team", "WorldModel", "WorldModelConfig", "check_dataset", "from_rows", "gather", "make_base", "mix", "source",
]  # fmt: skip
