"""MAPPO: PPO with critics that see the global state, without agent ids; full, no or partial parameter sharing.

Yu et al.: The Surprising Effectiveness of PPO in Cooperative, Multi-Agent Games, arXiv 2103.01955. Sharing schemes as
in `ippo.py`; where agents share one critic, they share its value of the state. Value normalisation is a setting
(`--normalize-values`), which robots have on.

On SMAX (`2s3z`, `3s5z`, `smacv2_10_units`, `smacv2_20_units`) the paper's actor has no id, so there the default is
`fups`; its critic has one, which this one has not.
"""

from algos.tasks import main, presets

PRESETS = presets("mappo", sharing="fups_id", smax_sharing="fups")

if __name__ == "__main__":
    main("mappo", __doc__, PRESETS, centralised_critic=True)
