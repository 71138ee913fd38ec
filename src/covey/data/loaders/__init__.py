"""Offline data of other projects, as `covey.data.Dataset`; and what format a path is in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from covey.data.dataset import Dataset, wrong
from covey.data.loaders.common import optional
from covey.data.loaders.minari import load_minari
from covey.data.loaders.npy import load_madiff, load_omar
from covey.data.loaders.omiga import load_omiga
from covey.data.loaders.vault import load_vault
from covey.data.storage import HEADER, load

FORMATS: dict[str, Callable[..., Dataset]] = {
    "covey": load,
    "vault": load_vault,
    "omiga": load_omiga,
    "omar": load_omar,
    "madiff": load_madiff,
    "minari": load_minari,
}


def read(path: str | Path, format: str | None = None, **options: Any) -> Dataset:
    """A dataset in any known format; `format` is a key of `FORMATS`, None to look. `options` go to its loader.

    Raises DataError if it is none or cannot be read, ValueError for a format that is unknown.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"format is {format!r}; allowed: {', '.join(FORMATS)}")
    return FORMATS[format or detect(path)](path, **options)


def detect(path: str | Path) -> str:
    """The format of what lies at `path`, told by its files' names. Raises DataError if it is none of `FORMATS`."""
    path = Path(path)
    if not path.exists():
        raise wrong(path, "path", "a file or folder", "nothing")
    if (path / HEADER).is_file():
        return "covey"
    if (path / "data" / "main_data.hdf5").is_file() or (path / "main_data.hdf5").is_file():
        return "minari"
    if path.is_file() and path.suffix in (".hdf5", ".h5"):
        return _detect_hdf5(path)
    if (path / "path_lengths.npy").is_file():
        return "madiff"
    if (path / "obs_0.npy").is_file() or any(path.glob("seed_*_data")):
        return "omar"
    if (path / "metadata.json").is_file() or next(path.rglob("manifest.ocdbt"), None):
        return "vault"
    raise wrong(path, "format", f"one of {', '.join(FORMATS)}", "none of their files")


def _detect_hdf5(path: Path) -> str:
    h5py = optional("h5py", path)
    try:
        with h5py.File(path, "r") as file:
            names = set(file)
    except OSError as error:
        raise wrong(path, "content", "a whole HDF5 file", f"one that can't be read ({error})") from None
    if {"s", "o", "a", "r", "d"} & names:
        return "omiga"
    if any(name.startswith("episode_") for name in names):
        return "minari"
    raise wrong(path, "content", "arrays s, o, a, r, d (omiga) or groups episode_<k> (minari)", sorted(names)[:5])


__all__ = [
    "FORMATS",
    "detect",
    "load_madiff",
    "load_minari",
    "load_omar",
    "load_omiga",
    "load_vault",
    "read",
]
