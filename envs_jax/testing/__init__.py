"""Checks that an environment keeps the contract of `envs_jax.base`: `check_env(env)` in one line of a test.

    check_env(env)               contract, dtypes, determinism, auto-reset, dictionaries, compilation, rendering
    check_jaxmarl_wrappers(env)  JaxMARL's wrappers work around the environment (imports JaxMARL)
    check_import()               importing an environment's module has no side effects (in a fresh interpreter)

`check_env` finds all problems it can and raises one AssertionError that lists them, each under the name of its check.
Values are checked on one compiled rollout of a few environments. Time limits are shortened for it where the
environment has the field `max_steps`, so that episodes end, and end twice. Letters in shape comments: T steps,
E environments, N agents, A actions.
"""

from envs_jax.testing.contract import check_env
from envs_jax.testing.outside import check_import, check_jaxmarl_wrappers

__all__ = ["check_env", "check_import", "check_jaxmarl_wrappers"]
