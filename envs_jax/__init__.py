"""Multi-agent environments as pure JAX functions. `make`, `register`, `registered`; `envs_jax.testing.check_env`."""

from envs_jax.base import MultiAgentEnv, Outcome, State
from envs_jax.mamujoco.ids import ALIASES, IDS
from envs_jax.particles import BPS_GROUPS
from envs_jax.registry import make, register, registered

__all__ = ["MultiAgentEnv", "Outcome", "State", "make", "register", "registered"]
__version__ = "0.1.0"

for _name in ("specialisation", "synchronisation"):
    register(_name, f"envs_jax.games.matching:{_name.capitalize()}")
for _name in ("dispersion", "navigation"):
    register(_name, f"envs_jax.particles.{_name}:{_name.capitalize()}")
register("blind_particle_spread", "envs_jax.particles.blind_spread:BlindParticleSpread")
for _name, _groups in BPS_GROUPS.items():
    register(_name, "envs_jax.particles.blind_spread:BlindParticleSpread", groups=_groups)
register("polynomial", "envs_jax.games.polynomial:PolynomialGame")
for _name in ("multiplication", "twin_peaks", "action_agreement"):
    register(f"polynomial/{_name}", f"envs_jax.games.polynomial:{_name.title().replace('_', '')}")
for _name in ("cleanup", "harvest", "coins"):
    register(_name, f"envs_jax.ssd.{_name}:{_name.capitalize()}")
for _name, _settings in {**IDS, **ALIASES}.items():
    register(_name, "envs_jax.mamujoco.env:MaMujoco", **_settings)
