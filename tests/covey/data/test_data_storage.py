"""Our format on disk: the round trip, and everything that can be wrong with a folder."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from covey.data import DataError, from_transitions, load, save, windows
from covey.data.dataset import LEAVES


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    shapes = {"state": (7, 3), "obs": (7, 2, 4), "action": (7, 2, 2), "reward": (7, 2)}
    arrays = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    mask = np.array([[True, True], [True, False]])
    return from_transitions(
        np.array([4, 3]),
        np.array([True, False]),
        **arrays,
        action_mask=mask,
        provenance={"env": "toy", "seeds": [0, 1]},
    )


@pytest.fixture
def folder(data, tmp_path):
    return save(data, tmp_path / "sub" / "toy")


@pytest.mark.parametrize("mmap", [True, False])
def test_round_trip(data, folder, mmap):
    loaded = load(folder, mmap=mmap)
    for name in LEAVES:
        a, b = getattr(data, name), getattr(loaded, name)
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes(), name
    assert loaded.provenance == {"env": "toy", "seeds": [0, 1]}
    assert isinstance(loaded.obs.base, np.memmap) == mmap
    assert jax.jit(windows, static_argnums=2)(loaded, np.array([0]), 2).mask.tolist() == [[True, True]]
    assert [p.name for p in folder.parent.iterdir()] == ["toy"]  # nothing beside it


def test_files_are_what_the_header_says(data, folder):
    """Read with NumPy and JSON alone, as another program would."""
    import hashlib

    header = json.loads((folder / "header.json").read_text())
    assert (header["format"], header["version"]) == ("covey.data", 1)
    assert header["leaves"].keys() == LEAVES.keys()
    for name, entry in header["leaves"].items():
        array = np.load(folder / entry["file"])
        assert [array.dtype.name, list(array.shape)] == [entry["dtype"], entry["shape"]]
        np.testing.assert_array_equal(array, getattr(data, name))
        assert hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]


def test_a_failure_leaves_nothing_and_the_old_one_whole(data, folder, monkeypatch):
    real = np.save

    def fail(file, *args, **kwargs):
        if "reward" in str(file):
            raise OSError(28, "No space left on device")
        real(file, *args, **kwargs)

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(DataError, match="cannot be written: No space left"):
        save(data, folder.parent / "new")
    with pytest.raises(DataError, match="cannot be written"):
        save(replace(data, provenance={}), folder, overwrite=True)
    assert [p.name for p in folder.parent.iterdir()] == ["toy"]
    assert load(folder).provenance["env"] == "toy"


def test_what_is_there_is_not_replaced_by_accident(data, folder, tmp_path):
    with pytest.raises(DataError, match="expected a path with nothing there, found a dataset"):
        save(data, folder)
    save(replace(data, provenance={"new": True}), folder, overwrite=True)
    assert load(folder).provenance == {"new": True}
    (tmp_path / "thesis").mkdir()
    with pytest.raises(DataError, match="nothing there, or a dataset to replace, found something else"):
        save(data, tmp_path / "thesis", overwrite=True)
    with pytest.raises(DataError, match="provenance: expected a value that JSON can hold"):
        save(replace(data, provenance={"env": object()}), tmp_path / "other")
    with pytest.raises(DataError, match="state: expected finite"):
        save(replace(data, state=data.state * np.nan), tmp_path / "other")


def cut(file):
    file.write_bytes(file.read_bytes()[:-5])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def edit(**changes):
    def change(file):
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("obs.npy", cut, "obs.npy: obs: expected a whole .npy file, found a truncated"),
        ("obs.npy", flip, "obs.npy: obs: expected content with sha256 .*damaged"),
        ("obs.npy", lambda f: f.unlink(), "obs.npy: obs: cannot be read: No such file"),
        ("obs.npy", lambda f: f.write_text("hello"), "obs.npy: obs: expected a whole .npy file"),
        ("obs.npy", lambda f: f.write_bytes(b""), "obs.npy: obs: expected a whole .npy file"),
        ("obs.npy", lambda f: np.save(f, np.zeros((2, 2))), r"expected float32\[9, 2, 4\], found float64\[2, 2\]"),
        ("header.json", cut, "header.json: content: expected a JSON object"),
        ("header.json", lambda f: f.unlink(), "header.json: cannot be read"),
        ("header.json", edit(version=2), "header.json: version: expected 1, found 2"),
        ("header.json", edit(format="zip"), "header.json: format: expected 'covey.data', found 'zip'"),
        ("header.json", edit(leaves={}), "header.json: leaves.state: expected an object"),
    ],
)
@pytest.mark.parametrize("mmap", [True, False])
def test_damage_is_named(folder, file, damage, message, mmap):
    damage(folder / file)
    with pytest.raises(DataError, match=message) as error:
        load(folder, mmap=mmap)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_without_checksums_numbers_are_still_looked_at(folder):
    obs = np.load(folder / "obs.npy")
    obs[3, 1, 2] = np.nan
    np.save(folder / "obs.npy", obs)
    with pytest.raises(DataError, match=r"obs.npy: expected finite numbers, found nan at \[3, 1, 2\]"):
        load(folder, verify=False)
