"""What CODA is compared with: an offline learner on its dataset, or on what an unguided diffusion model makes of it.

    --mode none           the dataset alone
    --mode unconditional  samples of a diffusion model of the dataset, in the manner of SynthER (Lu et al., 2303.06614)
    --mode q              samples of that model asked for a high reward, in the manner of Oh et al. (2408.13092)

The loop, budgets and presets are those of `algos/coda.py`, whose paper has these baselines (arXiv 2604.23308).
"""

from algos.tasks_coda import main, presets

PRESETS = presets("unconditional")

if __name__ == "__main__":
    main("offline_diffusion", __doc__, PRESETS, "unconditional")
