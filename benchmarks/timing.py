"""What the benchmarks share: timing compiled programs, describing the machine, writing tables."""

from __future__ import annotations

import csv
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax


class Compiled(NamedTuple):
    """A compiled function, the seconds that compiling took, and the bytes it needs beside its arguments."""

    call: Callable[..., Any]
    compile_seconds: float
    temporary_bytes: int


def compile_once(function: Callable[..., Any], *args: Any) -> Compiled:
    """Compile `function` for these arguments, past any cache."""
    jax.config.update("jax_enable_compilation_cache", False)
    began = time.perf_counter()
    compiled = jax.jit(function).lower(*args).compile()
    seconds = time.perf_counter() - began
    analysis = compiled.memory_analysis()
    return Compiled(compiled, seconds, analysis.temp_size_in_bytes if analysis else 0)


def time_calls(call: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls after one to warm up, all outputs ready."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - began)
    return seconds


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum in milliseconds, for a row of a table."""
    numbers = {"median_ms": statistics.median(seconds), "min_ms": min(seconds), "max_ms": max(seconds)}
    return {name: round(1e3 * value, 3) for name, value in numbers.items()} | {"repeats": len(seconds)}


def machine() -> str:
    """Device, cores and versions, for the head of a table."""
    device = jax.devices()[0]
    return (
        f"{device.platform} {device.device_kind} x {jax.device_count()}; {os.cpu_count()} CPU cores "
        f"{platform.machine()}; Python {platform.python_version()}; jax {jax.__version__}"
    )


def write_table(path: Path, rows: Iterable[dict[str, Any]], command: str) -> None:
    """A CSV whose first lines, starting with '#', say how it was made.

    Each row is printed and written as it comes, to PATH.part: a run that is cut off leaves what it had, and the table
    of before.
    """
    rows = iter(rows)
    # The machine is asked after the first row: that starts JAX, and robots set its flags before it starts.
    first = next(rows, None)
    if first is None:
        raise SystemExit(f"error: nothing was measured; {path} is as it was")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("w", newline="") as file:
        file.write(f"# {command}\n# {machine()}\n")
        writer = csv.DictWriter(file, list(first))
        writer.writeheader()
        for row in itertools.chain([first], rows):
            writer.writerow(row)
            file.flush()
            print("  ".join(f"{name} {value}" for name, value in row.items() if value != ""), flush=True)
    part.replace(path)
    print(f"wrote {path}")
