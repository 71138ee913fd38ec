"""MAPPO: PPO with critics that see the global state, without agent ids; full, no or partial parameter sharing.

Yu et al.: The Surprising Effectiveness of PPO in Cooperative, Multi-Agent Games, arXiv 2103.01955. Sharing schemes as
in `ippo.py`; where agents share one critic, they share its value of the state. Value normalisation is not included.
"""

from functools import partial

import envs_jax
from algos.tasks import build, for_env, presets
from covey.experiment import cli

PRESETS = presets(sharing="fups_id")

if __name__ == "__main__":
    cli.main(
        "mappo",
        __doc__,
        PRESETS,
        build=partial(build, centralised_critic=True),
        for_env=for_env,
        env_ids=envs_jax.registered(),
    )
