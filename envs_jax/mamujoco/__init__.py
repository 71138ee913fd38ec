"""MaMuJoCo in JAX: MuJoCo's robots with their joints shared out among agents, on MJX.

    env = envs_jax.make("mamujoco/halfcheetah_2x3")
    env = envs_jax.make("mamujoco/ant", partition=(("hip_1", "ankle_1"), (4, 5, 6, 7, 0, 1)), obsk=2, physics="fast")

`ids` lists what is registered, `robots` the robots' rules, `partitions` who drives what, `graph` and `views` what an
agent sees, `models` and `physics` the simulation, `env` the environment. Importing this package imports no MuJoCo.
"""

from envs_jax.mamujoco.ids import ALIASES, IDS
from envs_jax.mamujoco.options import Physics

__all__ = ["ALIASES", "IDS", "Physics"]
