"""How long runs of the `small` presets take, nothing compiled before: five minutes on two cores is what they promise.

    python benchmarks/small.py [--only 'baselines/happo.py humanoid*' ...] [--core 0] [--list] [--out FILE]

Each is run as a user would, `python PROGRAM PRESET --preset-scale small`, with video, in a folder that is removed and
with an empty compilation cache; one that needs a dataset (`make reproduce-mamujoco-data`) ends with an error without.
On one core (`--core`), it is the upper bound of what two need, so that two of these can share a machine. `compile_s`
is what the run says itself, `seconds` the whole process.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import tyro
from timing import write_table

PROGRAMS = [
    str(path)
    for folder in ("algos", "baselines")
    for path in sorted(Path(folder).glob("*.py"))
    if "__main__" in path.read_text()
]
LIMIT = 1800
"""Seconds after which a run is stopped."""


@dataclass(frozen=True)
class Args:
    """Settings of the timing."""

    only: tuple[str, ...] = ("*",)
    """Which runs, by patterns of "PROGRAM PRESET"."""
    core: int | None = None
    """The core to run on; None for all."""
    list: bool = False
    """Say which runs these are, and end."""
    out: Path = Path("results/benchmarks/small.csv")
    """Table to write."""


def runs(only: tuple[str, ...]) -> list[tuple[str, str]]:
    """Programs and presets."""
    every = [
        (program, preset)
        for program in PROGRAMS
        for preset in import_module(program.removesuffix(".py").replace("/", ".")).PRESETS
    ]
    found = [run for run in every if any(fnmatch.fnmatch(" ".join(run), pattern) for pattern in only)]
    if not found:
        raise SystemExit(f"error: only is {only}; allowed: patterns of 'PROGRAM PRESET', see --list")
    return found


def measure(program: str, preset: str, core: int | None) -> dict[str, Any]:
    """The row of one run."""
    cores = [] if core is None else ["taskset", "-c", str(core)]
    folder = Path(tempfile.mkdtemp())
    environ = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environ |= {"COVEY_CACHE_DIR": str(folder / "cache")}
    command = [*cores, sys.executable, program, preset, "--preset-scale", "small", "--run-dir", str(folder / "run")]
    began = time.perf_counter()
    try:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=LIMIT)
        status, printed = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired as stopped:
        status, printed = 124, (stopped.stdout or b"").decode()
    seconds = time.perf_counter() - began
    shutil.rmtree(folder)
    compiled = re.search(r"compiled in (?:(\d+) min )?([\d.]+) s", printed)
    if status:
        print(printed[-2000:], file=sys.stderr)
    return {
        "program": program,
        "preset": preset,
        "cores": os.cpu_count() if core is None else 1,
        "compile_s": round(60 * int(compiled[1] or 0) + float(compiled[2])) if compiled else "",
        "seconds": round(seconds),
        "status": status,
    }


if __name__ == "__main__":
    args = tyro.cli(Args, description=__doc__)
    if args.list:
        print("\n".join(" ".join(run) for run in runs(args.only)))
    else:
        rows = (measure(program, preset, args.core) for program, preset in runs(args.only))
        write_table(args.out, rows, " ".join(["python", *sys.argv]))
