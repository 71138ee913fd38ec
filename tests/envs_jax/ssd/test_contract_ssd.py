"""The social dilemmas keep the contract of `envs_jax.base` with all rules, and with roles of every kind."""

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
CASES = [(game, rules, roles) for game in ROLES for rules in RULES for roles in ROLES[game]]


@pytest.mark.parametrize(("game", "rules", "roles"), CASES)
def test_every_set_of_rules_and_roles(game, rules, roles):
    check_env(envs_jax.make(game, rules=rules, roles=roles, **SETTINGS[game]), x64=False, num_steps=8, num_envs=2)


@pytest.mark.parametrize("game", SETTINGS)
def test_in_full(game):
    check_env(envs_jax.make(game, **SETTINGS[game]))


@pytest.mark.parametrize("observation", ["rgb", "onehot", "symbols"])
@pytest.mark.parametrize("game", SETTINGS)
def test_every_observation(game, observation):
    env = envs_jax.make(game, observation=observation, self_features=True, **SETTINGS[game])
    check_env(env, x64=False, num_steps=8, num_envs=2)
