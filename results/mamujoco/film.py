"""A video of one seed of a run, by default the median one, small enough for a page; or an HTML page of it.

    python results/mamujoco/film.py RUN OUT.gif [--start 100] [--frames 100]
    python results/mamujoco/film.py RUN OUT.html --frames 1000

The page needs no OpenGL, and lets one turn the robot and step through the episode.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from PIL import Image

sys.path += [str(Path(__file__).parents[2]), str(Path(__file__).parents[2] / "benchmarks")]

from mamujoco_transfer import robots_of

import envs_jax  # noqa: F401
from covey.experiment.video import save_gif


@dataclass(frozen=True)
class Args:
    """What to film."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run."""
    out: Annotated[Path, tyro.conf.Positional]
    """The GIF, or the page where it ends in ".html"."""
    start: int = 100
    """First step shown, of an episode that starts at rest."""
    frames: int = 100
    """Steps shown."""
    seed: int | None = None
    """Which seed, counted from 0; by default the one that comes the median distance in an episode."""
    episode: int = 0
    """Which of a policy's episodes: the seed of its start."""
    width: int = 320
    """Pixels across."""


def main(args: Args) -> None:
    learner, carries = robots_of(args.run)
    states, valid = jax.jit(jax.vmap(lambda carry: learner.episode(carry, jax.random.key(args.episode))))(carries)
    x = np.where(np.asarray(valid), np.asarray(states.qpos)[..., 0], -np.inf).max(axis=1)
    seed = int(np.argsort(x)[(len(x) - 1) // 2]) if args.seed is None else args.seed
    print(f"furthest x of each seed {x.round(1).tolist()}; seed {seed} is shown")
    last = min(args.start + args.frames, int(np.asarray(valid)[seed].sum()))
    shown = range(max(0, last - args.frames), last)
    if args.out.suffix == ".html":
        states = jax.tree.map(lambda leaf: leaf[seed, shown.start : shown.stop], states)
        learner.env.render_html(states, args.out, f"{learner.env.robot} {learner.env.partition}, seed {seed}")
        return
    frames = []
    for t in shown:
        picture = Image.fromarray(learner.env.render(jax.tree.map(lambda leaf: leaf[seed, t], states)))  # noqa: B023
        frames.append(np.asarray(picture.resize((args.width, args.width * 3 // 4))))
    save_gif(args.out, frames)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
