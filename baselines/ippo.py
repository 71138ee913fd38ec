"""IPPO: independent PPO, where each agent's critic sees that agent's observation; full, no or partial parameter
sharing.

de Witt et al.: Is Independent Learning All You Need in the StarCraft Multi-Agent Challenge?, arXiv 2011.09533.

    --sharing fups_id       one network, told by a one-hot id who acts (FuPS+ID, the default)
    --sharing fups          one network that cannot tell agents apart (FuPS)
    --sharing fups_id_only  one network that sees the id and not the observation
    --sharing fups_matched  FuPS+ID, widened to the parameter count of HyperMARL's MLP hypernetwork
    --sharing nops          one network and one optimiser per agent (NoPS)

Presets are the tasks of the HyperMARL paper with its settings, so that these are its baselines; on SMAX (`2s3z`,
`3s5z`, `smacv2_10_units`, `smacv2_20_units`) its shared network has no id, so there the default is `fups`.
"""

from algos.tasks import main, presets

PRESETS = presets(sharing="fups_id", smax_sharing="fups")

if __name__ == "__main__":
    main("ippo", __doc__, PRESETS, centralised_critic=False)
