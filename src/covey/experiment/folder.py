"""A run's folder: its config, its metrics and its policies, every file whole or absent.

config.json            settings, command, versions, device, git state
metrics/<from>-<to>.npz  one chunk's metrics [updates, S, ...], written as the run goes
metrics.npz            all of them [U, S, ...], at the end
metrics.csv            one row per evaluation and seed
checkpoints/           see `covey.experiment.checkpoint`
policy.safetensors     the final policies of all seeds, leading axis S
summary.json           the closing table's numbers
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np

from covey.experiment.checkpoint import RunError, to_arrays

# Settings that do not change a run's numbers, so that a resumed run may change them.
FREE = {"chunks", "runs_dir", "run_dir", "resume", "video", "quiet"}

Arrays = dict[str, np.ndarray]


def create(config: Any, program: str, preset: str) -> Path:
    """A new, writable folder: `config.run_dir`, or one named after program, preset and time in `config.runs_dir`.

    Raises RunError if it cannot be written or holds a run already.
    """
    name = "-".join(part for part in (program, preset, datetime.now().strftime("%Y%m%d-%H%M%S")) if part)
    choices = (
        [config.run_dir] if config.run_dir else [config.runs_dir / f"{name}{end}" for end in ("", "-2", "-3", "-4")]
    )
    # Two runs may start within a second.
    folder = next((f for f in choices if not (f / "config.json").exists()), choices[-1])
    if (folder / "config.json").exists():
        raise RunError(f"{folder} holds a run already; continue it with --resume {folder}, or choose another --run-dir")
    check_writable(folder)
    return folder


def check_writable(folder: Path) -> None:
    """Make `folder` if need be and raise RunError unless files can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / ".writable", b"")
        (folder / ".writable").unlink()
    except OSError as error:
        raise RunError(f"cannot write to the run folder {folder}: {error.strerror}") from None


def write(path: Path, content: bytes | str) -> None:
    """Write a file beside its place and rename it, so that a reader never sees half of it."""
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(unfinished, path)


def write_json(path: Path, value: Any) -> None:
    write(path, json.dumps(value, indent=2) + "\n")


def read_config(folder: Path) -> dict[str, Any]:
    """The run's `config.json`. Raises RunError if there is none or it cannot be read."""
    path = folder / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise RunError(f"{folder} holds no run: {path} is missing") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def describe(value: Any) -> Any:
    """`value` as JSON: settings by field name with type, arrays as lists (large ones by digest), functions by name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, dict):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return describe(value._asdict())  # type: ignore[attr-defined]
    if isinstance(value, (list, tuple)):
        return [describe(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.size <= 1000:
            return array.tolist()
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        return f"{array.dtype}{list(array.shape)} sha256 {digest}"
    if isinstance(value, Path):
        return str(value)
    return getattr(value, "__qualname__", type(value).__qualname__)


def check_same(saved: Any, now: Any) -> None:
    """Raise RunError naming every setting in which two `describe`d configurations differ, but for the free ones."""
    old, new = dict(flatten(saved)), dict(flatten(now))
    names = [name for name in old | new if name.split(".")[-1] not in FREE]
    differing = [name for name in names if repr(old.get(name)) != repr(new.get(name))]  # repr: NaN equals NaN
    if differing:
        absent = "not there (in that version)"
        listed = "; ".join(f"{name} was {old.get(name, absent)}, now {new.get(name, absent)}" for name in differing)
        raise RunError(f"a run resumes only with the settings it started with, but {listed}")


def changed_surroundings(record: dict[str, Any]) -> list[str]:
    """In words, what differs between a run's recorded versions and device and those of this process."""
    now = surroundings()
    old, new = ({**dict(flatten(r["versions"])), **dict(flatten(r["device"], "device"))} for r in (record, now))
    return [f"{name} was {old.get(name)}, now {new[name]}" for name in new if old.get(name) != new[name]]


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Pairs of dotted name and value."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flatten(item, f"{name}.{key}" if name else key)
    else:
        yield name, value


def surroundings() -> dict[str, Any]:
    """What a run depends on besides its settings: versions, device, platform and git state."""
    packages = ["covey", "jax", "jaxlib", "flax", "optax", "numpy"]
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    device = jax.local_devices()[0]
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": [sys.executable.rsplit("/", 1)[-1], *sys.argv],
        "versions": versions,
        "device": {"kind": device.device_kind, "platform": device.platform, "count": jax.local_device_count()},
        "platform": platform.platform(),
        "git": _git(),
    }


def _git() -> dict[str, Any] | None:
    """Commit of the checkout that the running script (or covey) lies in, and whether it has uncommitted changes."""

    def ask(*arguments: str) -> str:
        root = Path(__file__).resolve().parent
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", root, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


# --- Metrics ---


def write_chunk(folder: Path, start: int, stop: int, metrics: Arrays, seconds: float) -> None:
    """Write the metrics of updates `start` to `stop`, and the seconds they took."""
    (folder / "metrics").mkdir(exist_ok=True)
    write(_chunk(folder, start, stop), _npz(metrics | {"seconds": np.asarray(seconds)}))


def read_chunks(folder: Path, update: int) -> tuple[Arrays, float]:
    """All metrics up to `update`, joined, and the seconds they took; `({}, 0.0)` if `update` is 0.

    Files of updates after `update` are removed: their checkpoint was never finished, so they are computed again.
    Raises RunError naming a file that is missing or damaged.
    """
    chunks, seconds, done = [], 0.0, 0
    files = {tuple(map(int, p.stem.split("-"))): p for p in sorted((folder / "metrics").glob("[0-9]*-[0-9]*.npz"))}
    for (_, stop), path in files.items():
        if stop > update:
            path.unlink()
    while done < update:
        stop = next((b for a, b in files if a == done and b <= update), None)
        if stop is None:
            raise RunError(f"{folder / 'metrics'} has no file for the updates after {done}; start a new run")
        try:
            with np.load(files[done, stop]) as file:
                chunk = dict(file)
        except Exception as error:  # a damaged archive raises one of zipfile's, zlib's or NumPy's errors
            raise RunError(f"{files[done, stop]} is damaged ({error}); start a new run") from None
        seconds += float(chunk.pop("seconds"))
        chunks.append(chunk)
        done = stop
    return join(chunks), seconds


def join(chunks: list[Arrays]) -> Arrays:
    """Chunks of metrics, one after the other."""
    return {name: np.concatenate([c[name] for c in chunks]) for name in chunks[0]} if chunks else {}


def write_metrics(folder: Path, metrics: Arrays, schedule: np.ndarray, steps_per_update: int, seed: int) -> None:
    """Write `metrics.npz` and `metrics.csv`."""
    write(folder / "metrics.npz", _npz(metrics))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(_rows(metrics, schedule, steps_per_update, seed))
    write(folder / "metrics.csv", text.getvalue())


def _rows(metrics: Arrays, schedule: np.ndarray, steps_per_update: int, seed: int) -> Iterator[list]:
    """The table's head, then a row per evaluation and seed: `eval/...` as evaluated, `train/...` averaged (without NaN)
    over the updates since the row before, `finite` only if it was so in all of them."""
    columns = dict(item for name in sorted(metrics) for item in _columns(name, metrics[name]))
    yield ["update", "env_steps", "seed", *columns]
    start = 0
    for update in schedule:
        cells = []
        for name, values in columns.items():
            if name.startswith("eval/"):
                cells.append(values[update - 1])
            elif name == "finite":
                cells.append(values[start:update].all(axis=0).astype(int))
            else:
                cells.append(_nanmean(values[start:update]))
        for i in range(len(cells[0])):
            row = [f"{c[i]:.9g}" if np.isfinite(c[i]) else "" for c in cells]
            yield [update, update * steps_per_update, seed + i, *row]
        start = update


def _columns(name: str, values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """A metric [U, S] as it is, one [U, S, N] as `name/agent_0`, ..."""
    if values.ndim == 2:
        yield name, values
    else:
        flat = values.reshape(*values.shape[:2], -1)
        for i in range(flat.shape[2]):
            yield f"{name}/agent_{i}", flat[:, :, i]


def _nanmean(values: np.ndarray) -> np.ndarray:
    count = np.sum(~np.isnan(values), axis=0)
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=0, dtype=np.float64) / count


def _npz(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _chunk(folder: Path, start: int, stop: int) -> Path:
    return folder / "metrics" / f"{start:08d}-{stop:08d}.npz"


def write_policy(path: Path, policies: Any, about: dict[str, str]) -> None:
    """Write the policies of all seeds as safetensors: an array [S, ...] per leaf, named like "params,kernel"."""
    from safetensors.numpy import save

    # One entry, since safetensors writes several in any order, and equal runs should give equal files.
    metadata = {"about": json.dumps(about)}
    write(path, save({name: np.ascontiguousarray(x) for name, x in to_arrays(policies).items()}, metadata=metadata))


def atomically(path: Path, save: Callable[[Path], None]) -> None:
    """Have `save` write a file beside its place, with the same suffix, and rename it."""
    unfinished = path.with_name(f".tmp-{path.name}")
    save(unfinished)
    os.replace(unfinished, path)
