"""Datasets for offline learning: MATD3 or MAPPO trained, then its policies played with noise, in one quality or more.

    python baselines/offline_data.py navigation --total-steps 30000 --num-seeds 4
    python baselines/offline_data.py halfcheetah_2x3 --total-steps 1000000 --play-noise 0.2 --play-steps 250000
    python baselines/offline_data.py halfcheetah_2x3 --levels poor medium good replay --dataset data/halfcheetah
    python baselines/offline_data.py ant_4x2-mappo --preset-scale small --total-steps 400000

Trains as `baselines/matd3.py` does, with its presets and flags (as `baselines/mappo.py` with the presets called
`<robot>-mappo`), and keeps every seed's policy at each evaluation. Each level is a dataset of all seeds' policies,
played for `--play-steps` steps with Gaussian noise on their actions (MAPPO's means): `dataset` in the run's folder, or
where `--dataset` says; `<dataset>-<level>` where there are several:

    last    each seed's last policy (the default)
    good    each seed's best policy (of those trained for longer than MATD3's warm-up; so for the next two)
    medium  each seed's policy whose return is nearest to 1/2 of the way up from the worst to good's median
    poor    likewise, 1/5 of the way up
    replay  policies from all of training, evenly spaced, equally often, with training's own noise: a mixture as a
            replay buffer holds it, played anew

This is OG-MARL's recipe (four policies trained up to a level, noise 0.2). `levels.csv`, in the run's folder, has the
returns with and without noise.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from algos import tasks, tasks_matd3
from baselines import mappo, matd3
from covey.data import Dataset, collect, episode_returns, merge, save
from covey.data.histogram import save_histograms
from covey.experiment import cli
from covey.experiment.cli import Job
from covey.experiment.program import evaluation_schedule
from covey.experiment.runner import RETURN, RunResult
from covey.learners.base import Metrics
from covey.learners.matd3 import MATD3
from covey.learners.offline import Team
from covey.learners.ppo import PPO

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
class MATD3Args(tasks_matd3.Args):
    """Settings of MATD3's training, and of what is played afterwards."""

    playing: Playing = field(default_factory=Playing)


@dataclass(frozen=True)
class MAPPOArgs(tasks.Args):
    """Settings of MAPPO's training, and of what is played afterwards."""

    playing: Playing = field(default_factory=Playing)


class Behaviour(NamedTuple):
    """How a learner's policies are kept and played; actions are scaled to [-1, 1].

    kept: of what `learner.policy` gives, what playing needs.
    act: (kept, obs [N, ...]) to actions without noise [N, A].
    noise: kept to the standard deviation of training's own noise, broadcastable to [N, A].
    """

    name: str
    kept: Callable[[Any], Any]
    act: Callable[[Any, jax.Array], jax.Array]
    noise: Callable[[Any], Any]


def of_matd3(learner: MATD3, exploration_noise: float) -> Behaviour:
    """The behaviour of MATD3's actors."""
    actor = learner.actor

    def act(kept: Any, obs: jax.Array) -> jax.Array:
        return actor.act(actor.weights(kept), obs.reshape(obs.shape[0], 1, -1))[:, 0]

    return Behaviour("matd3", lambda policy: policy["actor"], act, lambda kept: exploration_noise)


def of_mappo(learner: PPO) -> Behaviour:
    """The behaviour of MAPPO's (feed-forward) actors: their means."""
    networks, team = learner.actor_critic, Team.of(learner.env)
    low, high = np.array(team.low, np.float32), np.array(team.high, np.float32)
    middle, half = (high + low) / 2, np.where(high > low, (high - low) / 2, 1)  # Padding has no range.

    def act(kept: Any, obs: jax.Array) -> jax.Array:
        memory, _ = networks.start(1)
        x = obs.reshape(1, obs.shape[0], 1, -1)
        means, _ = networks.policy(networks.weights(kept), x, memory, jnp.zeros((1, 1, 1), jnp.bool_))
        return (means[0, :, 0] - middle) / half  # Not cut at the bounds: noise beyond them is lost in training, too.

    def noise(kept: Any) -> jax.Array:
        deviation = jnp.exp(networks.log_std(networks.weights(kept)))[:, 0]
        return deviation / half

    return Behaviour("mappo", lambda policy: policy, act, noise)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RememberingCarry:
    """A learner's carry, and its actor after some of its updates, [K, ...]."""

    inner: Any
    kept: Any


@dataclass(frozen=True)
class Remembering:
    """A learner that keeps its actor after each of the updates `at`."""

    inner: MATD3 | PPO
    at: tuple[int, ...]
    exploration_noise: float = 0.0
    """MATD3's."""

    @cached_property
    def behaviour(self) -> Behaviour:
        if isinstance(self.inner, MATD3):
            return of_matd3(self.inner, self.exploration_noise)
        return of_mappo(self.inner)

    @property
    def steps_per_update(self) -> int:
        return self.inner.steps_per_update

    def init(self, key: jax.Array, hp: Any) -> RememberingCarry:
        inner = self.inner.init(key, hp)
        kept = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(self.at), *x.shape)), self._kept(inner))
        return RememberingCarry(inner, kept)

    def _kept(self, inner: Any) -> Any:
        return self.behaviour.kept(self.inner.policy(inner))

    def update(self, carry: RememberingCarry, data: Any = None) -> tuple[RememberingCarry, Metrics]:
        inner, metrics = self.inner.update(carry.inner, data)
        # Later copies follow the policy until their update has come, so that no test of the number is needed before.
        following = jnp.asarray(self.at) >= inner.update

        def keep(kept: jax.Array, new: jax.Array) -> jax.Array:
            return jnp.where(following.reshape(-1, *(1,) * new.ndim), new, kept)

        return RememberingCarry(inner, jax.tree.map(keep, carry.kept, self._kept(inner))), metrics

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

    def __init__(self, learner: Remembering, playing: Playing) -> None:
        self.behaviour, self.env, self.playing = learner.behaviour, learner.inner.env, playing
        team, act = Team.of(self.env), self.behaviour.act
        self.shape = team.num_agents, team.action_size

        def policy(params: Any, key: jax.Array, obs: jax.Array, memory: None) -> tuple[jax.Array, None]:
            kept, noise = params
            action = act(kept, obs) + noise * jax.random.normal(key, self.shape)
            return team.from_unit(jnp.clip(action, -1.0, 1.0)), memory

        self.policy = policy

    @property
    def rounds(self) -> int:
        """Longest episodes that each environment plays per seed (steps, where episodes have no limit)."""
        steps = -(-self.playing.play_steps // self.playing.play_envs)
        return -(-steps // (self.env.max_steps or 1))

    def play(self, level: str, kept: Any, returns: np.ndarray, updates: Sequence[int], first: int = 0) -> Dataset:
        """The episodes of a level, from actors [S, K, ...], their returns [K, S] and the updates [K] they are from."""
        episode, envs, parts = self.env.max_steps or 1, self.playing.play_envs, []
        steps = self.rounds * episode
        for i, chosen in enumerate(choose(level, returns, self.rounds, first)):
            for k in chosen:
                actor = jax.tree.map(lambda x: x[i, k], kept)  # noqa: B023
                noise = self.behaviour.noise(actor) if level == "replay" else self.playing.play_noise
                noise = np.broadcast_to(np.asarray(noise, np.float32), self.shape)
                about = {
                    "policy": self.behaviour.name, "level": level, "noise": round(float(noise.mean()), 6), "seed": i,
                    "updates": int(updates[k]), "return_without_noise": float(returns[k, i]),
                }  # fmt: skip
                key = jax.random.fold_in(jax.random.key(i), k)
                each = steps // len(chosen) // episode * episode
                played = collect(
                    self.env, self.policy, key, envs, each, params=(actor, jnp.asarray(noise)), provenance=about
                )
                parts.append(played)
        return merge(parts)


def _presets(scales: Mapping[str, Mapping[str, Any]], names: Sequence[str], kind: type, suffix: str = "") -> dict:
    """Makers of these tasks' settings with those of playing."""

    def one(name: str) -> dict[str, Any]:
        made = scales[name].items()
        return {scale: kind(**{f.name: getattr(args, f.name) for f in fields(args)}) for scale, args in made}

    return {name + suffix: lambda name=name: one(name) for name in names}


PRESETS = tasks.Lazy(
    _presets(matd3.PRESETS, tuple(matd3.PRESETS), MATD3Args)
    | _presets(mappo.PRESETS, tuple(tasks.ROBOTS), MAPPOArgs, suffix="-mappo")
)


def build(args: MATD3Args | MAPPOArgs) -> Job:
    """A learner that remembers, and its hyper-parameters."""
    if isinstance(args, MATD3Args):
        job, noise = tasks_matd3.build(args), float(np.max(args.hp.exploration_noise))
    elif args.policy.recurrent:
        raise ValueError("recurrent is True; allowed: feed-forward networks only")
    else:
        job, noise = tasks.build(args, centralised_critic=True), 0.0
    at = evaluation_schedule(args.run.updates(job.learner.steps_per_update), args.run.num_evaluations)
    return Job(Remembering(job.learner, tuple(at.tolist()), noise), job.hp)  # type: ignore[arg-type]


def write(learner: Remembering, args: MATD3Args | MAPPOArgs, result: RunResult) -> None:
    """Play and save all levels, with a table and histograms of their returns."""
    returns = result.metrics[RETURN][np.array(learner.at) - 1]
    steps = np.array(learner.at) * learner.steps_per_update
    first = first_trained(steps, float(np.max(args.hp.warmup_steps))) if isinstance(args, MATD3Args) else 0
    player = Player(learner, args.playing)
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
    used: list[tuple[Any, Any]] = []

    def building(args: MATD3Args | MAPPOArgs) -> Job:
        if not args.run.resume:  # which may write its datasets again
            args.playing.check_absent()
        job = build(args)
        used.append((job.learner, args))
        return job

    result = cli.main("offline_data", __doc__, PRESETS, build=building)
    write(*used[-1], result)


if __name__ == "__main__":
    main()
