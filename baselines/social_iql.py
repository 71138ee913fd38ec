"""Social IQL: recurrent Q-learning with the social rewards that Fair&Local ones are compared with, or none.

    --social.method selfish                         u_i = r_i (the default)
    --social.method common                          u_i = sum_j r_j
    --social.method inequity_aversion               Hughes et al. 2018, arXiv 1803.08884
    --social.method social_value_orientation        as in arXiv 2602.15407: rewards smoothed, angles in degrees
    --social.method mckee_social_value_orientation  McKee et al. 2020: each step's rewards, in radians

Presets and settings are those of `algos/fair_local_iql.py`.
"""

from algos.dilemmas_q import main, presets

PRESETS = presets("selfish")

if __name__ == "__main__":
    main("social_iql", __doc__, PRESETS)
