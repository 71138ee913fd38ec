"""Checkpoints that are whole or not there at all, and that notice when a byte was changed afterwards.

    checkpoints/00000100/state/      the arrays, by Orbax
    checkpoints/00000100/sha256sums  one line per file, as `sha256sum -c` reads it

A checkpoint is written beside its place and renamed into it last, so one that exists was finished.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

KEEP = 2


class RunError(ValueError):
    """A run that cannot start or continue for a reason its user can act on; the message is one line."""


def to_arrays(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of `tree` as host arrays by name ("params,kernel"); typed random keys as their integers."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    host = jax.device_get([jax.random.key_data(x) if _is_key(x) else x for _, x in leaves])
    names = [jax.tree_util.keystr(path, simple=True, separator=",") or "value" for path, _ in leaves]
    return {name: np.asarray(x) for name, x in zip(names, host, strict=True)}


def from_arrays(arrays: dict[str, np.ndarray], template: Any) -> Any:
    """The inverse of `to_arrays` for a `template` of arrays or `jax.ShapeDtypeStruct`.

    Raises ValueError naming the first leaf that is missing or has another shape or type.
    """

    def leaf(path: tuple, like: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator=",") or "value"
        shape = jax.eval_shape(jax.random.key_data, like) if _is_key(like) else like
        value = arrays.get(name, np.zeros(shape.shape, shape.dtype) if 0 in shape.shape else None)
        if value is None or value.shape != shape.shape or value.dtype != shape.dtype:
            found = "nothing" if value is None else f"{value.dtype}{list(value.shape)}"
            raise ValueError(f"{name} should be {shape.dtype}{list(shape.shape)} but the checkpoint has {found}")
        return jax.random.wrap_key_data(jnp.asarray(value), impl=_key_impl(like)) if _is_key(like) else value

    return jax.tree_util.tree_map_with_path(leaf, template)


def save(folder: Path, update: int, tree: Any) -> None:
    """Write `tree` as the checkpoint after `update` updates; of the earlier ones only the last stays."""
    import orbax.checkpoint

    folder.mkdir(parents=True, exist_ok=True)
    final, unfinished = folder / f"{update:08d}", folder / f".{update:08d}.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    # Orbax refuses arrays without elements; the template brings them back.
    arrays = {name: x for name, x in to_arrays(tree).items() if x.size}
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save((unfinished / "state").absolute(), arrays)
    (unfinished / "sha256sums").write_text("".join(f"{d}  {name}\n" for name, d in _digests(unfinished).items()))
    if final.exists():
        shutil.rmtree(final)
    unfinished.rename(final)
    for old in found(folder)[:-KEEP]:
        shutil.rmtree(folder / f"{old:08d}")


def found(folder: Path) -> list[int]:
    """The updates of the checkpoints in `folder`, ascending."""
    return sorted(int(p.name) for p in folder.glob("[0-9]*") if p.is_dir()) if folder.is_dir() else []


def load(folder: Path, template: Any) -> Any:
    """The newest checkpoint's tree, as host arrays, or None if there is none yet.

    Raises RunError, and deletes nothing, if it is damaged or does not fit `template`.
    """
    updates = found(folder)
    if not updates:
        return None
    newest = folder / f"{updates[-1]:08d}"
    problem = _problem(newest)
    if problem:
        intact = [u for u in updates[:-1] if not _problem(folder / f"{u:08d}")]
        if not intact:
            raise RunError(f"{problem}; no earlier checkpoint is intact: start a new run")
        before = folder / f"{intact[-1]:08d}"
        raise RunError(f"{problem}; the checkpoint before it, {before}, is intact: delete {newest} to resume from it")

    import orbax.checkpoint

    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        arrays = checkpointer.restore((newest / "state").absolute())
    try:
        return from_arrays(arrays, template)
    except ValueError as error:
        raise RunError(f"{newest} does not fit this program (code changed since?): {error}") from None


def _problem(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, naming the file, or None."""
    sums = checkpoint / "sha256sums"
    if not sums.is_file():
        return f"{sums} is missing"
    try:
        expected = {name: digest for digest, name in (line.split("  ", 1) for line in sums.read_text().splitlines())}
    except ValueError:
        return f"{sums} is damaged"
    present = _digests(checkpoint)
    for name, digest in expected.items():
        if name not in present:
            return f"{checkpoint / name} is missing"
        if present[name] != digest:
            return f"{checkpoint / name} is damaged (its SHA-256 differs from the one in {sums.name})"
    return None if expected else f"{sums} is damaged"


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below `folder`, by relative path."""
    digests = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "sha256sums"):
        with path.open("rb") as file:
            digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _key_impl(like: Any) -> Any:
    """The generator of typed keys of which only shape and dtype are known."""
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), like)
    return found[0]
