"""MuJoCo Warp beside C MuJoCo: errors of each robot's `faithful` after one and three environment steps.

    python benchmarks/mamujoco_warp.py [--robots hopper ant] [--out FILE]

Needs `pip install 'mujoco-mjx[warp]'`. Where there is no NVIDIA GPU, Warp runs on the CPU, which an environment would
refuse: numbers, not speeds, are looked at here. The same eight states and random actions as in
`tests/envs_jax/mamujoco/test_physics.py`; largest and median error over the states. Kernels are compiled at first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tyro
from timing import write_table

from envs_jax.mamujoco import env as environment
from envs_jax.mamujoco.ids import NAMED

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "envs_jax" / "mamujoco"))


@dataclass(frozen=True)
class Args:
    """Settings of the comparison."""

    robots: tuple[str, ...] = tuple(NAMED)
    """Robots, each as one agent."""
    out: Path = Path("results/benchmarks/mamujoco_warp.csv")
    """Table to write."""


def measure(args: Args) -> Iterator[dict[str, Any]]:
    """A row per robot and quantity."""
    import compare  # type: ignore[import-not-found]

    for robot in args.robots:
        with mock.patch.object(environment, "require_backend"):
            env = replace(compare.make(robot), backend="warp")
            errors = compare.errors(env, steps=3)
        for name, error in errors[0].items():
            row = {"robot": robot, "of": name, "largest_1": f"{error.max():.2g}", "median_1": f"{np.median(error):.2g}"}
            row["largest_3"] = f"{errors[2][name].max():.2g}"
            yield row


if __name__ == "__main__":
    args = tyro.cli(Args, description=__doc__)
    write_table(args.out, measure(args), " ".join(["python", *sys.argv]))
