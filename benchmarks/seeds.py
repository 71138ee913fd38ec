"""Training speed against the number of seeds in one program.

    python benchmarks/seeds.py --out results/benchmarks/seeds.csv

HyperMARL-IPPO on Dispersion at the paper's settings, everything included: environments, generation, gradient steps.
Compile and run time are apart; steps are environment steps (four agents act in each), over all seeds.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import tyro
from timing import compile_once, spread, time_calls, write_table

from algos.hypermarl_ippo import PRESETS
from algos.tasks import build
from covey.experiment import seed_keys


@dataclass(frozen=True)
class Args:
    """Settings of the benchmark."""

    seeds: tuple[int, ...] = (1, 16, 64, 256)
    """Numbers of seeds."""
    repeats: int = 5
    """Timed updates of each program."""
    out: Path = Path("results/benchmarks/seeds.csv")
    """Table to write."""


def measure(args: Args) -> Iterator[dict[str, Any]]:
    """A row per number of seeds."""
    learner, hp, _ = build(PRESETS["dispersion"]["paper"], centralised_critic=False)
    for num_seeds in args.seeds:
        carries = jax.jit(jax.vmap(learner.init, (0, None)))(seed_keys(0, num_seeds), hp)
        program = compile_once(jax.vmap(learner.update), carries)
        seconds = time_calls(lambda p=program, c=carries: p.call(c), args.repeats)
        steps = num_seeds * learner.steps_per_update
        row = {"seeds": num_seeds, "steps_per_s": round(steps / statistics.median(seconds))} | spread(seconds)
        row |= {
            "compile_s": round(program.compile_seconds, 2),
            "temporary_mib": round(program.temporary_bytes / 2**20, 1),
            "temporary_mib_per_seed": round(program.temporary_bytes / 2**20 / num_seeds, 2),
        }
        yield row


if __name__ == "__main__":
    args = tyro.cli(Args, description=__doc__)
    write_table(args.out, measure(args), " ".join(["python", *sys.argv]))
