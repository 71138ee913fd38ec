"""Datasets for offline learning: MATD3 trained, then its policies played with noise, of one quality or of several.

    python baselines/offline_data.py navigation --total-steps 30000 --num-seeds 4
    python baselines/offline_data.py halfcheetah_2x3 --total-steps 1000000 --play-noise 0.2 --play-steps 250000
    python baselines/offline_data.py halfcheetah_2x3 --levels poor medium good replay --dataset data/halfcheetah

Trains as `baselines/matd3.py` does, with its presets and flags, and keeps every seed's policy at each evaluation. Each
level is a dataset of all seeds' policies, played for `--play-steps` steps with Gaussian noise: `dataset` in the run's
folder, or where `--dataset` says; `<dataset>-<level>` where there are several:

    last    each seed's last policy (the default)
    good    each seed's best policy (of those trained for longer than the warm-up; so for the next two)
    medium  each seed's policy whose return is nearest to 1/2 of the way up from the worst to good's median
    poor    likewise, 1/5 of the way up
    replay  policies from all of training, evenly spaced, equally often, with training's own noise: a mixture as a
            replay buffer holds it, played anew

This is OG-MARL's recipe (four policies trained up to a level, noise 0.2). `levels.csv`, in the run's folder, has the
returns with and without noise.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from algos.tasks import Lazy
from algos.tasks_matd3 import Args as TrainingArgs
from algos.tasks_matd3 import build as build_training
from baselines.matd3 import PRESETS as TRAINING
from covey.data import Dataset, collect, episode_returns, merge, save
from covey.data.histogram import save_histograms
from covey.experiment import cli
from covey.experiment.cli import Job
from covey.experiment.program import evaluation_schedule
from covey.experiment.runner import RETURN, RunResult
from covey.learners.base import Metrics
from covey.learners.matd3 import MATD3
from covey.learners.offline import Team

Level = Literal["last", "good", "medium", "poor", "replay"]
FRACTIONS = {"medium": 0.5, "poor": 0.2}  # Of the way up from the worst policy to a good one.


@dataclass(frozen=True)
class Playing:
    """How trained policies are played."""

    levels: tuple[str, ...] = ("last",)
    """Qualities, a dataset each: last, good, medium, poor, replay."""
    play_steps: int = 50_000
    """Steps that each seed is played, rounded up to whole episodes of the environments side by side."""
    play_envs: int = 32
    """Environments side by side."""
    play_noise: float = 0.2
    """Standard deviation of the noise on actions scaled to [-1, 1]; 0 for none."""
    dataset: Path | None = None
    """Where the dataset is to be; by default `dataset` in the run's folder."""

    def __post_init__(self) -> None:
        if not self.levels or not set(self.levels) <= set(get_args(Level)):
            raise ValueError(f"levels is {self.levels}; allowed: some of {', '.join(get_args(Level))}")
        if self.play_steps < 1 or self.play_envs < 1:
            raise ValueError(f"play_steps, play_envs are {self.play_steps}, {self.play_envs}; allowed: at least 1")
        if self.play_noise < 0:
            raise ValueError(f"play_noise is {self.play_noise}; allowed: a number of at least 0")

    def check_absent(self) -> None:
        """Raise ValueError if a dataset's path is taken."""
        for path in self.paths(self.dataset).values() if self.dataset else ():
            if path.exists():
                raise ValueError(f"dataset is {path}; allowed: a path with nothing there")

    def paths(self, dataset: Path) -> dict[str, Path]:
        """Where each level's dataset is to be."""
        if len(self.levels) == 1:
            return {self.levels[0]: dataset}
        return {level: dataset.with_name(f"{dataset.name}-{level}") for level in self.levels}


@dataclass(frozen=True)
class Args(TrainingArgs):
    """Settings of MATD3's training, and of what is played afterwards."""

    playing: Playing = field(default_factory=Playing)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RememberingCarry:
    """A learner's carry, and its actor after some of its updates, [K, ...]."""

    inner: Any
    kept: Any


@dataclass(frozen=True)
class Remembering:
    """MATD3 that keeps its actor after each of the updates `at`."""

    inner: MATD3
    at: tuple[int, ...]

    @property
    def steps_per_update(self) -> int:
        return self.inner.steps_per_update

    def init(self, key: jax.Array, hp: Any) -> RememberingCarry:
        inner = self.inner.init(key, hp)
        kept = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(self.at), *x.shape)), self.inner.policy(inner)["actor"])
        return RememberingCarry(inner, kept)

    def update(self, carry: RememberingCarry, data: Any = None) -> tuple[RememberingCarry, Metrics]:
        inner, metrics = self.inner.update(carry.inner, data)
        # Later copies follow the policy until their update has come, so that no test of the number is needed before.
        following = jnp.asarray(self.at) >= inner.update

        def keep(kept: jax.Array, new: jax.Array) -> jax.Array:
            return jnp.where(following.reshape(-1, *(1,) * new.ndim), new, kept)

        return RememberingCarry(inner, jax.tree.map(keep, carry.kept, self.inner.policy(inner)["actor"])), metrics

    def evaluate(self, carry: RememberingCarry, key: jax.Array) -> Metrics:
        return self.inner.evaluate(carry.inner, key)

    def policy(self, carry: RememberingCarry) -> Any:
        return self.inner.policy(carry.inner) | {"kept": carry.kept}

    def episode(self, carry: RememberingCarry, key: jax.Array) -> tuple[Any, jax.Array]:
        return self.inner.episode(carry.inner, key)


def choose(level: str, returns: np.ndarray, most: int, first: int = 0) -> list[list[int]]:
    """Which of each seed's policies are of a level, [S] lists of at most `most`, from returns [K, S] without noise.

    Those before `first` are of no quality: see `first_trained`.
    """
    count, num_seeds = returns.shape
    if level == "last":
        return [[count - 1]] * num_seeds
    if level == "replay":
        return [np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int)).tolist()] * num_seeds
    best = first + np.argmax(returns[first:], axis=0)
    if level == "good":
        return [[int(k)] for k in best]
    worst, good = returns[first:].min(), np.median(returns[first:].max(axis=0))
    goal = worst + FRACTIONS[level] * (good - worst)
    # Of those on the way up alone: a good policy that broke down later is none of a lower level.
    reached = [np.abs(returns[first : k + 1, i] - goal) for i, k in enumerate(best)]
    return [[first + int(np.argmin(distance))] for distance in reached]


def first_trained(steps: np.ndarray, warmup_steps: float) -> int:
    """The first of evaluations after `steps` [K] that followed longer training than the warm-up took; 0 where none did.

    An ant that has learned nothing stands, and gets a return of 1000 for it, which it loses when it starts to move.
    """
    return int(np.argmax(steps > 2 * warmup_steps))


class Player:
    """Plays kept policies; all by one compiled program."""

    def __init__(self, learner: MATD3, playing: Playing, training_noise: float) -> None:
        self.learner, self.playing, self.training_noise = learner, playing, training_noise
        team = Team.of(learner.env)

        def policy(params: Any, key: jax.Array, obs: jax.Array, memory: None) -> tuple[jax.Array, None]:
            actor, noise = params
            action = learner.actor.act(learner.actor.weights(actor), obs.reshape(obs.shape[0], 1, -1))[:, 0]
            action = action + noise * jax.random.normal(key, action.shape)
            return team.from_unit(jnp.clip(action, -1.0, 1.0)), memory

        self.policy = policy

    @property
    def rounds(self) -> int:
        """Longest episodes that each environment plays per seed (steps, where episodes have no limit)."""
        steps = -(-self.playing.play_steps // self.playing.play_envs)
        return -(-steps // (self.learner.env.max_steps or 1))

    def play(self, level: str, kept: Any, returns: np.ndarray, updates: Sequence[int], first: int = 0) -> Dataset:
        """The episodes of a level, from actors [S, K, ...], their returns [K, S] and the updates [K] they are from."""
        noise, envs = self.training_noise if level == "replay" else self.playing.play_noise, self.playing.play_envs
        episode, parts = self.learner.env.max_steps or 1, []
        steps = self.rounds * episode
        for i, chosen in enumerate(choose(level, returns, self.rounds, first)):
            for k in chosen:
                params = jax.tree.map(lambda x: x[i, k], kept), jnp.float32(noise)  # noqa: B023
                about = {
                    "policy": "matd3", "level": level, "noise": noise, "seed": i, "updates": int(updates[k]),
                    "return_without_noise": float(returns[k, i]),
                }  # fmt: skip
                key = jax.random.fold_in(jax.random.key(i), k)
                each = steps // len(chosen) // episode * episode
                parts.append(collect(self.learner.env, self.policy, key, envs, each, params=params, provenance=about))
        return merge(parts)


def _with_playing(scales: Mapping[str, TrainingArgs]) -> dict[str, Args]:
    def more(args: TrainingArgs) -> Args:
        return Args(**{f.name: getattr(args, f.name) for f in fields(TrainingArgs)})

    return {scale: more(args) for scale, args in scales.items()}


PRESETS: Mapping[str, Mapping[str, Args]] = Lazy({name: lambda n=name: _with_playing(TRAINING[n]) for name in TRAINING})


def build(args: Args) -> Job:
    """MATD3 that remembers, and its hyper-parameters."""
    job = build_training(args)
    at = evaluation_schedule(args.run.updates(job.learner.steps_per_update), args.run.num_evaluations)
    return Job(Remembering(job.learner, tuple(at.tolist())), job.hp)  # type: ignore[arg-type]


def write(learner: Remembering, args: Args, result: RunResult) -> None:
    """Play and save all levels, with a table and histograms of their returns."""
    returns = result.metrics[RETURN][np.array(learner.at) - 1]
    steps = np.array(learner.at) * learner.steps_per_update
    first = first_trained(steps, float(np.max(args.hp.warmup_steps)))
    player = Player(learner.inner, args.playing, float(np.max(args.hp.exploration_noise)))
    rows: list[dict[str, Any]] = []
    for level, path in args.playing.paths(args.playing.dataset or result.folder / "dataset").items():
        data = player.play(level, result.state.carries.kept, returns, learner.at, first)
        data = replace(data, provenance={"run": result.folder.name, **data.provenance})
        save(data, path, overwrite=True)
        played = episode_returns(data).mean(axis=1)
        quantiles = dict(
            zip(("min", "q25", "median", "q75", "max"), np.quantile(played, [0, 0.25, 0.5, 0.75, 1]), strict=True)
        )
        clean = [returns[k, i] for i, chosen in enumerate(choose(level, returns, player.rounds, first)) for k in chosen]
        row = {"level": level, "transitions": data.num_transitions, "episodes": len(played), "mean": played.mean()}
        row |= quantiles | {"policies": len(clean), "mean_without_noise": np.mean(clean)}
        rows.append({k: round(float(v), 1) if isinstance(v, float) else v for k, v in row.items()})
        save_histograms(data, result.folder / f"{level}.png", ("returns", "lengths"), title=level)
        print(f"{level}: dataset of {data.num_transitions} transitions in {path}, mean return {played.mean():.4g}")
    with (result.folder / "levels.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


def main() -> None:
    """Train, play, save."""
    used: list[tuple[Any, Args]] = []

    def building(args: Args) -> Job:
        if not args.run.resume:  # which may write its datasets again
            args.playing.check_absent()
        job = build(args)
        used.append((job.learner, args))
        return job

    result = cli.main("offline_data", __doc__, PRESETS, build=building)
    write(*used[-1], result)


if __name__ == "__main__":
    main()
