"""The social dilemmas keep the contract of `envs_jax.base`: all rules, roles of every kind, and all observations."""

import pytest

import envs_jax
from envs_jax.testing import check_env

RULES = ("meltingpot", "hughes2018", "socialjax")
SETTINGS = {
    "harvest": {"map": "small", "num_agents": 6},
    "cleanup": {"map": "small", "num_agents": 4},
    "coins": {"map": "5x5", "num_agents": 2},
}
ROLES = {
    "harvest": ("3high_3low", "3standard_3wide_zapper", {"zap_length": [0, 1, 2, 3, 5, 7], "speed": 0.5}),
    "cleanup": ("high_low", "strong_weak_cleaner", "cleaner_consumer"),
    "coins": ("1high_1low", "1standard_1spawn_biased"),
}
OBSERVATIONS = (
    {},
    {"observation": "rgb", "self_features": True},
    {"observation": "onehot", "self_features": True},
    {"observation": "onehot"},
    {"self_features": True},
)
CASES = [(game, rules, place) for game in ROLES for rules in RULES for place in range(len(ROLES[game]))]


@pytest.mark.parametrize(("game", "rules", "place"), CASES)
def test_contract(game, rules, place):
    """With x64 (and so in full) once per game; the ways to observe take turns."""
    observation = OBSERVATIONS[(place + 2 * RULES.index(rules)) % len(OBSERVATIONS)]
    env = envs_jax.make(game, rules=rules, roles=ROLES[game][place], **SETTINGS[game], **observation)
    check_env(env, x64=(rules, place) == ("meltingpot", 0), num_envs=2)
