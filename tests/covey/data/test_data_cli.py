"""`python -m covey.data`: what it says and draws, and one line with status 2 for what it cannot read."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from covey.data import from_transitions, load, save
from covey.data.__main__ import main


def dataset(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"state": (9, 3), "obs": (9, 2, 4), "action": (9, 2, 2)}
    arrays = {name: rng.uniform(-1, 1, shape) for name, shape in shapes.items()}
    reward = np.repeat(np.arange(9.0)[:, None], 2, axis=1)
    mask = np.array([[True, True], [True, False]])
    return from_transitions(
        np.array([4, 2, 3]), np.array([True, False, False]), reward=reward, **arrays, action_mask=mask,
        provenance={"env": "toy"},
    )  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return save(dataset(), tmp_path / "toy")


def run(capsys, *arguments):
    main([str(a) for a in arguments])
    return capsys.readouterr().out


def error(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert left.value.code == 2 and captured.err.count("\n") == 1 and captured.err.startswith("error: "), captured.err
    return captured.err


def madiff(folder, **changes):
    rng = np.random.default_rng(0)
    folder.mkdir()
    arrays = {"obs": rng.normal(size=(9, 2, 3)), "actions": 3 * rng.normal(size=(9, 2, 1)), "rewards": np.ones((9, 2))}
    for name, x in (arrays | {"path_lengths": np.array([5, 4])} | changes).items():
        np.save(folder / f"{name}.npy", x)
    return folder


def test_inspect(path, capsys):
    text = run(capsys, "inspect", path)
    lines = {line.split(maxsplit=1)[0]: line for line in text.splitlines() if line.strip()}
    assert "3: 1 terminated, 2 truncated" in lines["episodes"]
    assert "9, 2 of them without what followed" in lines["transitions"]
    assert "state 3, 2 agents: obs 4, actions 2, 1" in lines["sizes"]
    assert "12 ± 6.481 in [6, 21], mean over agents" in lines["return"]  # 0+1+2+3, 4+5, 6+7+8: 6, 9, 21
    assert '{"env": "toy"}' in lines["provenance"]
    row = next(line for line in text.splitlines() if "action" in line and "padding" in line)
    assert "3 + 1 padding" in row
    assert len(run(capsys, "inspect", path, "--every-dimension").splitlines()) > len(text.splitlines()) + 10


def test_convert_tells_the_format_and_keeps_the_options(tmp_path, capsys):
    source = madiff(tmp_path / "Good")
    text = run(capsys, "convert", source, tmp_path / "out", "--time-limit", 5, "--clip", 1, "--note", "2x3, v1")
    assert "2 episodes, 9 transitions" in text
    data = load(tmp_path / "out")
    assert np.flatnonzero(data.truncated).tolist() == [4] and np.abs(data.action).max() == 1
    assert data.provenance == {
        "source": "madiff npy", "name": "Good", "scenario": tmp_path.name, "time_limit": 5, "clip": 1.0,
        "note": "2x3, v1",
    }  # fmt: skip
    run(capsys, "convert", source, tmp_path / "again", "--format", "madiff", "--time-limit", 0)
    assert load(tmp_path / "again").terminated.sum() == 2


def test_merge_and_subsample(path, tmp_path, capsys):
    other = save(dataset(1), tmp_path / "other")
    assert "6 episodes, 18 transitions" in run(capsys, "merge", path, other, "--out", tmp_path / "both")
    run(capsys, "subsample", tmp_path / "both", "--out", tmp_path / "some", "--episodes", 4, "--seed", 3)
    some = load(tmp_path / "some")
    assert some.num_episodes == 4 and some.provenance["seed"] == 3 and some.provenance["of"]["operation"] == "merge"
    run(capsys, "subsample", path, "--out", tmp_path / "some", "--transitions", 1, "--overwrite")
    assert load(tmp_path / "some").num_episodes == 1


def test_histogram(path, tmp_path, capsys):
    file = tmp_path / "picture.png"
    run(capsys, "histogram", path, "--out", file, "--what", "returns", "lengths", "rewards", "actions", "obs", "state")
    with Image.open(file) as image:
        assert image.size[0] > 800 and image.size[1] > 600
        assert np.asarray(image.convert("L")).std() > 5
    run(capsys, "histogram", path, "--out", file, "--what", "returns")
    with Image.open(file) as image:
        assert image.size[0] < 800


def test_errors_are_one_line(path, tmp_path, capsys):
    out = tmp_path / "out"
    assert "expected a file or folder, found nothing" in error(capsys, "inspect", tmp_path / "nowhere")
    bad = madiff(tmp_path / "bad", obs=np.where(np.arange(54).reshape(9, 2, 3) == 40, np.nan, 1.0))
    line = error(capsys, "convert", bad, out)
    assert f"{bad}: obs: expected finite numbers, found nan at [6, 1, 1]" in line and not out.exists()
    content = (path / "action.npy").read_bytes()
    (path / "action.npy").write_bytes(content[: len(content) // 2])
    assert "action.npy: action: expected a whole .npy file, found a truncated" in error(capsys, "inspect", path)
    (path / "action.npy").write_bytes(content)
    assert "time_limit: expected a foreign format" in error(capsys, "inspect", path, "--time-limit", 5)
    assert "found a dataset" in error(capsys, "subsample", path, "--out", path, "--episodes", 1)
    assert "episodes is 9; allowed: 1 to 3" in error(capsys, "subsample", path, "--out", out, "--episodes", 9)
    assert "dataset 1: state: expected rows of shape [3]" in error(
        capsys, "merge", path, madiff(tmp_path / "Good"), "--out", out
    )
    (tmp_path / "text.hdf5").write_text("hello")
    assert "expected a whole HDF5 file" in error(capsys, "inspect", tmp_path / "text.hdf5")


def test_importing_starts_no_backend_and_loads_no_reader():
    script = (
        "import sys, covey.data, covey.data.__main__\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends\n"
        "heavy = {'h5py', 'tensorstore', 'matplotlib', 'orbax', 'envs_jax'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == "", done.stderr


def test_as_a_program(tmp_path):
    command = [sys.executable, "-m", "covey.data", "inspect", tmp_path / "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
