"""A dataset for offline learning: MATD3 trained up to a level, then its policies played with noise.

    python baselines/offline_data.py navigation --total-steps 30000 --num-seeds 4
    python baselines/offline_data.py halfcheetah_2x3 --total-steps 1000000 --play-noise 0.2 --play-steps 250000
    python baselines/offline_data.py navigation --total-steps 30000 --dataset data/navigation-medium

Trains as `baselines/matd3.py` does, with its presets and flags: how good the policies are is a matter of how long.
Then each seed's policy is played for `--play-steps` steps with Gaussian noise, and all seeds' episodes are one dataset,
in the run's folder or where `--dataset` says. This is OG-MARL's recipe (four policies, noise 0.2); several such
datasets make a mixed one (`python -m covey.data merge`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from algos.tasks import Lazy
from algos.tasks_matd3 import Args as TrainingArgs
from algos.tasks_matd3 import build as build_training
from baselines.matd3 import PRESETS as TRAINING
from covey.data import Dataset, collect, merge, save
from covey.experiment import cli
from covey.experiment.cli import Job
from covey.experiment.runner import RunResult
from covey.learners.matd3 import MATD3
from covey.learners.offline import Team


@dataclass(frozen=True)
class Playing:
    """How trained policies are played."""

    play_steps: int = 50_000
    """Steps that each seed's policy is played, rounded up to whole rounds of the environments side by side."""
    play_envs: int = 32
    """Environments side by side."""
    play_noise: float = 0.2
    """Standard deviation of the noise on actions scaled to [-1, 1]; 0 for none."""
    dataset: Path | None = None
    """Where the dataset is to be; by default `dataset` in the run's folder."""

    def __post_init__(self) -> None:
        if self.play_steps < 1 or self.play_envs < 1:
            raise ValueError(f"play_steps, play_envs are {self.play_steps}, {self.play_envs}; allowed: at least 1")
        if self.play_noise < 0:
            raise ValueError(f"play_noise is {self.play_noise}; allowed: a number of at least 0")
        if self.dataset is not None and self.dataset.exists():
            raise ValueError(f"dataset is {self.dataset}; allowed: a path with nothing there")


@dataclass(frozen=True)
class Args(TrainingArgs):
    """Settings of MATD3's training, and of what is played afterwards."""

    playing: Playing = field(default_factory=Playing)


def play(learner: MATD3, result: RunResult, playing: Playing) -> Dataset:
    """The episodes of all seeds' policies."""
    team = Team.of(learner.env)

    def policy(params: Any, key: jax.Array, obs: jax.Array, memory: None) -> tuple[jax.Array, None]:
        weights = learner.actor.weights(params["actor"])
        action = learner.actor.act(weights, obs.reshape(obs.shape[0], 1, -1))[:, 0]
        noise = playing.play_noise * jax.random.normal(key, action.shape)
        return team.from_unit(jnp.clip(action + noise, -1.0, 1.0)), memory

    steps, envs = -(-playing.play_steps // playing.play_envs), playing.play_envs
    carries = result.state.carries
    parts = []
    for i in range(carries.update.shape[0]):
        params = jax.tree.map(lambda x: x[i], learner.policy(carries))  # noqa: B023
        about = {"policy": "matd3", "noise": playing.play_noise, "seed": i, "updates": int(carries.update[i])}
        parts.append(collect(learner.env, policy, jax.random.key(i), envs, steps, params=params, provenance=about))
    return merge(parts)


def _with_playing(scales: Mapping[str, TrainingArgs]) -> dict[str, Args]:
    def more(args: TrainingArgs) -> Args:
        return Args(**{f.name: getattr(args, f.name) for f in fields(TrainingArgs)})

    return {scale: more(args) for scale, args in scales.items()}


PRESETS: Mapping[str, Mapping[str, Args]] = Lazy({name: lambda n=name: _with_playing(TRAINING[n]) for name in TRAINING})


def main() -> None:
    """Train, play, save."""
    used: list[tuple[MATD3, Args]] = []

    def build(args: Args) -> Job:
        job = build_training(args)
        used.append((job.learner, args))  # type: ignore[arg-type]
        return job

    result = cli.main("offline_data", __doc__, PRESETS, build=build)
    learner, args = used[-1]
    path = args.playing.dataset or result.folder / "dataset"
    data = play(learner, result, args.playing)
    data = replace(data, provenance={"run": result.folder.name, **data.provenance})
    save(data, path, overwrite=True)
    print(f"dataset of {data.num_transitions} transitions in {path}: python -m covey.data inspect {path}")


if __name__ == "__main__":
    main()
