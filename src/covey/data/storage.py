"""Datasets on disk: a folder with a header and one raw `.npy` file per array, which can be memory-mapped.

    header.json     {"format": "covey.data", "version": 1,
                     "leaves": {"obs": {"file": "obs.npy", "dtype": "float32", "shape": [R, N, O], "sha256": ...}, ...},
                     "provenance": {...}}
    state.npy, obs.npy, action.npy, reward.npy, terminated.npy, ...     one per name in `covey.data.dataset.LEAVES`

The folder appears whole or not at all. `docs/offline_data.md` is the specification.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from covey.data.dataset import LEAVES, DataError, Dataset, check, wrong

FORMAT = "covey.data"
VERSION = 1
HEADER = "header.json"


def save(dataset: Dataset, path: str | Path, overwrite: bool = False) -> Path:
    """Write the dataset as the folder `path`, which appears only when all of it is written. Returns `path`.

    Raises DataError if something is there already (unless `overwrite`, which replaces a dataset but nothing else), the
    dataset is not sound, or its provenance is not JSON.
    """
    path = Path(path)
    if path.exists() and not (overwrite and (path / HEADER).exists()):
        instead = "a path with nothing there" if not overwrite else "nothing there, or a dataset to replace"
        raise wrong(path, "folder", instead, "a dataset" if (path / HEADER).exists() else "something else")
    check(dataset)
    try:
        json.dumps(dict(dataset.provenance), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise wrong("dataset", "provenance", "a value that JSON can hold", str(error)) from None
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        leaves = {}
        for name, (dtype, _) in LEAVES.items():
            values = np.ascontiguousarray(getattr(dataset, name))
            np.save(unfinished / f"{name}.npy", values, allow_pickle=False)
            digest = _sha256(unfinished / f"{name}.npy")
            leaves[name] = {"file": f"{name}.npy", "dtype": dtype, "shape": list(values.shape), "sha256": digest}
        header = {"format": FORMAT, "version": VERSION, "leaves": leaves, "provenance": dict(dataset.provenance)}
        (unfinished / HEADER).write_text(json.dumps(header, indent=2) + "\n")
        if path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            os.replace(path, old)
            os.replace(unfinished, path)
            shutil.rmtree(old)
        else:
            os.replace(unfinished, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return path


def load(path: str | Path, mmap: bool = True, verify: bool = True) -> Dataset:
    """The dataset of a folder, in NumPy arrays.

    mmap: whether to map the files into memory (read-only), so that only what is used is read.
    verify: whether to compare checksums, which reads everything once; shapes, types and structure are checked always.
    Raises DataError naming the file and leaf that is missing, truncated or not as the header says.
    """
    path = Path(path)
    header = read_header(path)
    leaves = {name: _read(path, header["leaves"], name, mmap, verify) for name in LEAVES}
    dataset = Dataset(**leaves, provenance=header.get("provenance", {}))
    check(dataset, path, lambda leaf: f"{leaf}.npy", finite=not verify)  # what was saved was finite
    return dataset


def read_header(path: Path) -> dict[str, Any]:
    """The header of a dataset's folder. Raises DataError if it is none of a version that is known here."""
    file = path / HEADER
    header = read_json(file)
    if header.get("format") != FORMAT:
        raise wrong(file, "format", repr(FORMAT), repr(header.get("format")))
    if header.get("version") != VERSION:
        raise wrong(file, "version", str(VERSION), header.get("version"))
    if not isinstance(header.get("leaves"), dict):
        raise wrong(file, "leaves", f"an entry for each of {', '.join(LEAVES)}", header.get("leaves"))
    return header


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises DataError naming the file."""
    try:
        value = json.loads(file.read_text())
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise wrong(file, "content", "a JSON object", f"something else ({error})") from None
    if not isinstance(value, dict):
        raise wrong(file, "content", "a JSON object", type(value).__name__)
    return value


def read_npy(file: Path, leaf: str, mmap: bool = False) -> np.ndarray:
    """An array from a `.npy` file. Raises DataError naming file and leaf if it is missing, truncated or another."""
    try:
        array = np.load(file, mmap_mode="r" if mmap else None, allow_pickle=False)
    except OSError as error:
        raise DataError(f"{file}: {leaf}: cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise wrong(file, leaf, "a whole .npy file", f"a truncated or another one ({_first_line(error)})") from None
    if not isinstance(array, np.ndarray):
        raise wrong(file, leaf, "a .npy file", "an archive of several arrays")
    return array.view(np.ndarray)  # stays mapped


def _read(path: Path, entries: dict[str, Any], name: str, mmap: bool, verify: bool) -> np.ndarray:
    entry = entries.get(name)
    if not isinstance(entry, dict) or not {"file", "dtype", "shape", "sha256"} <= entry.keys():
        raise wrong(path / HEADER, f"leaves.{name}", "an object with file, dtype, shape and sha256", entry)
    file = path / str(entry["file"])
    array = read_npy(file, name, mmap)
    if array.dtype.name != entry["dtype"] or list(array.shape) != entry["shape"]:
        raise wrong(file, name, f"{entry['dtype']}{entry['shape']}", f"{array.dtype}{list(array.shape)}")
    if verify and _sha256(file) != entry["sha256"]:
        raise wrong(file, name, f"content with sha256 {entry['sha256'][:12]}...", "another: the file is damaged")
    return array


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:200]
