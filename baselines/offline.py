"""Offline multi-agent learning from a dataset: MADDPG+BC, MADDPG, MADDPG+CQL, TD3+BC, IQL, OMIGA, BC.

    python baselines/offline.py halfcheetah_2x3 --dataset PATH               MADDPG+BC with CODA's settings
    python baselines/offline.py mamujoco/hopper_3x1 --dataset PATH --base iql        any registered environment
    python baselines/offline.py navigation --dataset PATH --rollouts 512     on a world model's rollouts, too
    python baselines/offline.py halfcheetah_2x3 --dataset PATH --sampling pjap       prioritised (Tilbury et al.)
    python baselines/offline.py twin-peaks --base maddpg                     no dataset: 1000 random joint actions

The dataset is a folder in the format of `covey.data` (`python -m covey.data convert` makes one of others' files,
`baselines/offline_data.py` one of a run of MATD3); the environment is only there to evaluate. Settings are in
`algos/tasks_offline.py`; `algos/coda.py` has the same learners on generated data, too.
"""

from __future__ import annotations

import envs_jax
from algos.tasks_offline import PRESETS, Args, for_env, make_learner
from covey.experiment import cli
from covey.experiment.cli import Job


def build(args: Args) -> Job:
    """The learner, its hyper-parameters and its data."""
    learner, _, data = make_learner(args)
    return Job(learner, args.hp, data)


def main() -> None:
    """The command line: these presets, any registered environment, or a payoff."""
    cli.main("offline", __doc__, PRESETS, build=build, for_env=for_env, env_ids=envs_jax.registered())


if __name__ == "__main__":
    main()
