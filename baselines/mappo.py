"""MAPPO: PPO with critics that see the global state, without agent ids; full, no or partial parameter sharing.

Yu et al.: The Surprising Effectiveness of PPO in Cooperative, Multi-Agent Games, arXiv 2103.01955. Sharing schemes as
in `ippo.py`; where agents share one critic, they share its value of the state. Value normalisation is not included.
"""

from algos.tasks import main, presets

PRESETS = presets(sharing="fups_id")

if __name__ == "__main__":
    main("mappo", __doc__, PRESETS, centralised_critic=True)
