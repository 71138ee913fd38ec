"""MATD3: deterministic actors and twin centralised critics; no, full or partial parameter sharing.

Ackermann, Gabler, Osa, Sugiyama: Reducing overestimation bias in multi-agent domains using double centralized critics,
arXiv 1910.01465.

    --sharing nops          one actor and one optimiser per agent (NoPS, the default, as there)
    --sharing fups_id       one actor, told by a one-hot id who acts (FuPS+ID)
    --sharing fups          one actor that cannot tell agents apart (FuPS)
    --sharing fups_matched  FuPS+ID, widened to the parameter count of HyperMARL's MLP hypernetwork
    --critic per_agent      a pair of critics per agent, as there; in MuJoCo, where rewards are the same, one for all

Presets are the tasks of the HyperMARL paper with its settings, so that these are its baselines.
"""

from algos.tasks_matd3 import main, presets

PRESETS = presets(sharing="nops")

if __name__ == "__main__":
    main("matd3", __doc__, PRESETS)
