"""The host side: what a run leaves in its folder, and that it can be cut, stopped and continued at will."""

import csv
import json
from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest
from toy import HP_VALUES, Walk, Walker

from covey.experiment import RunConfig, RunError, run
from covey.experiment.checkpoint import to_arrays

LEARNER = Walker(Walk(3))
CONFIG = RunConfig(num_seeds=4, total_steps=105, num_evaluations=5, chunks=1, quiet=True, video=False)


def start(tmp_path, name, **changes):
    return run(LEARNER, HP_VALUES, replace(CONFIG, run_dir=tmp_path / name, **changes), {"program": "toy"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 10 updates in one chunk, with a video."""
    config = replace(CONFIG, run_dir=tmp_path_factory.mktemp("runs") / "whole", video=True)
    return run(LEARNER, HP_VALUES, config, {"program": "toy", "preset": "walk"}, render=LEARNER.env.render)


def assert_same_run(a, b):
    for name, value in to_arrays(a.state).items():
        np.testing.assert_array_equal(value, to_arrays(b.state)[name], err_msg=name)
    assert a.metrics.keys() == b.metrics.keys()
    for name, value in a.metrics.items():
        np.testing.assert_array_equal(value, b.metrics[name], err_msg=name)
    for file in ("metrics.csv", "policy.safetensors"):
        assert (a.folder / file).read_bytes() == (b.folder / file).read_bytes()


@pytest.mark.parametrize("chunks", [10, 3, 99])
def test_chunks_change_nothing(tmp_path, whole, chunks):
    assert_same_run(start(tmp_path, "cut", chunks=chunks), whole)


def test_the_folder_holds_the_whole_story(whole):
    config = json.loads((whole.folder / "config.json").read_text())
    assert config["program"] == "toy" and config["preset"] == "walk"
    assert config["args"]["learner"]["env"] == {"type": "Walk", "num_agents": 3, "target": 3.0}
    assert config["args"]["hp"]["learning_rate"] == 0.05
    assert {"jax", "jaxlib", "flax", "optax", "numpy", "python", "covey"} <= config["versions"].keys()
    assert config["device"]["platform"] == jax.default_backend()
    names = {path.name for path in whole.folder.iterdir()}
    assert names == {
        *("config.json", "metrics", "metrics.npz", "metrics.csv", "checkpoints"),
        *("policy.safetensors", "summary.json", "curve.png", "video.gif"),
    }


def test_metrics_files_agree_with_the_result(whole):
    with np.load(whole.folder / "metrics.npz") as file:
        assert set(file) == set(whole.metrics)
        assert file["train/loss"].shape == (10, 4)
        np.testing.assert_allclose(file["eval/return"], file["eval/episode_return"].mean(axis=2))
    with (whole.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 4
    row = next(r for r in rows if r["update"] == "6" and r["seed"] == "2")
    assert row["env_steps"] == "60" and row["finite"] == "1"
    metrics = whole.metrics
    assert float(row["train/loss"]) == pytest.approx(metrics["train/loss"][4:6, 2].mean(), rel=1e-5)
    assert float(row["eval/episode_return/agent_1"]) == pytest.approx(metrics["eval/episode_return"][5, 2, 1], rel=1e-5)
    # Training returns are NaN in updates without a finished episode; those are left out of the mean, or leave a gap.
    for row in rows:
        last = int(row["update"])
        values = metrics["train/episode_return"][last - 2 : last, int(row["seed"]), 0]
        cell = row["train/episode_return/agent_0"]
        assert cell == "" if np.isnan(values).all() else float(cell) == pytest.approx(np.nanmean(values), rel=1e-5)


def test_policies_of_all_seeds_are_exported(whole):
    from safetensors.numpy import load_file

    policy = load_file(whole.folder / "policy.safetensors")
    assert list(policy) == ["layer,position"]
    np.testing.assert_array_equal(policy["layer,position"], whole.state.carries["params"]["layer"]["position"])


def test_video_shows_the_steps_before_the_episode_ended(whole):
    from PIL import Image

    with Image.open(whole.folder / "video.gif") as gif:
        assert gif.size == (32, 24) and gif.info["loop"] == 0
        seconds = 0.0
        for frame in range(gif.n_frames):  # frames that look alike are stored once and shown longer
            gif.seek(frame)
            seconds += gif.info["duration"] / 1000
    assert seconds == pytest.approx(20 * 0.07)


def test_the_callers_hyper_parameters_survive(tmp_path):
    hp = {name: jax.numpy.full(4, value) for name, value in HP_VALUES.items()}
    run(LEARNER, hp, replace(CONFIG, run_dir=tmp_path / "run"))
    assert float(hp["learning_rate"][0]) == pytest.approx(0.05)


class Killed(Exception):
    pass


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_run_that_stops_anywhere_continues_bitwise(tmp_path, whole, monkeypatch, moment):
    from covey.experiment import checkpoint

    save = checkpoint.save

    def stop_at_update_6(folder, update, state):
        if update == 6 and moment == "before":  # its metrics are written, its checkpoint is not
            raise Killed
        save(folder, update, state)
        if update == 6:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint, "save", stop_at_update_6)
        start(tmp_path, "stopped", chunks=5)
    assert not (tmp_path / "stopped" / "metrics.npz").exists()
    resumed = start(tmp_path, "stopped", chunks=3, resume=tmp_path / "stopped")  # cut differently the second time
    assert_same_run(resumed, whole)


def test_resuming_a_finished_run_only_writes_its_results_again(tmp_path, capsys):
    first = start(tmp_path, "run")
    (first.folder / "curve.png").unlink()
    again = start(tmp_path, "run", resume=first.folder, quiet=False)
    assert "finished already" in capsys.readouterr().out
    assert (first.folder / "curve.png").exists()
    assert again.summary == first.summary
    assert_same_run(first, again)


def test_resuming_with_other_settings_names_them(tmp_path):
    first = start(tmp_path, "run")
    config = replace(CONFIG, resume=first.folder, num_evaluations=2, chunks=7)
    with pytest.raises(RunError) as error:
        run(replace(LEARNER, env=Walk(3, target=1.0)), HP_VALUES, config)
    message = str(error.value)
    assert "learner.env.target was 3.0, now 1.0" in message and "run.num_evaluations was 5, now 2" in message
    assert "chunks" not in message


def test_resuming_a_run_of_before_a_setting_existed_says_so(tmp_path):
    first = start(tmp_path, "run")
    path = first.folder / "config.json"
    config = json.loads(path.read_text())
    del config["args"]["learner"]["env"]["target"]
    path.write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"learner.env.target was not there \(in that version\), now 3.0$"):
        start(tmp_path, "run", resume=first.folder)


def test_resuming_with_other_versions_warns(tmp_path, capsys):
    first = start(tmp_path, "run")
    path = first.folder / "config.json"
    path.write_text(path.read_text().replace(f'"jax": "{jax.__version__}"', '"jax": "0.0.1"'))
    start(tmp_path, "run", resume=first.folder)
    assert f"jax was 0.0.1, now {jax.__version__}" in " ".join(capsys.readouterr().err.split())


def test_checkpoints_that_vanished_are_not_passed_over(tmp_path):
    import shutil

    first = start(tmp_path, "run", chunks=5)
    shutil.rmtree(first.folder / "checkpoints")
    with pytest.raises(RunError, match="holds no checkpoint"):
        start(tmp_path, "run", resume=first.folder)


def test_metrics_that_vanished_or_broke_are_named(tmp_path):
    first = start(tmp_path, "run", chunks=5)
    path = first.folder / "metrics" / "00000004-00000006.npz"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match="00000004-00000006.npz is damaged"):
        start(tmp_path, "run", resume=first.folder)
    path.unlink()
    with pytest.raises(RunError, match="no file for the updates after 4"):
        start(tmp_path, "run", resume=first.folder)


def test_a_folder_is_not_used_twice(tmp_path):
    start(tmp_path, "run")
    with pytest.raises(RunError, match="holds a run already"):
        start(tmp_path, "run")


def test_a_diverged_seed_is_reported_and_left_out(tmp_path, capsys):
    hp = HP_VALUES | {"explode_at": np.array([1e9, 1e9, 0.0, 1e9], np.float32)}
    config = replace(CONFIG, seed=20, chunks=4, run_dir=tmp_path / "run", quiet=False)
    result = run(LEARNER, hp, config)
    assert result.diverged == {22: 1}
    captured = capsys.readouterr()
    assert captured.err.count("seed 22 diverged") == 1 and "after update 1;" in captured.err
    assert "left out: 1 of 4 seeds diverged: 22 (after update 1)" in captured.out
    assert result.summary["seeds"] == 3 and np.isfinite(result.summary["iqm"])
    assert np.isfinite(np.delete(result.metrics["train/loss"], 2, axis=1)).all()
    resumed = run(LEARNER, hp, replace(config, resume=result.folder))
    assert resumed.diverged == {22: 1}


def test_all_seeds_diverged_still_ends_in_order(tmp_path, capsys):
    config = replace(CONFIG, run_dir=tmp_path / "run", quiet=False, video=True)
    result = run(LEARNER, HP_VALUES | {"explode_at": 0.0}, config, render=LEARNER.env.render)
    assert len(result.diverged) == 4 and result.summary["iqm"] is None
    assert "no seed is well" in capsys.readouterr().out
    assert (result.folder / "policy.safetensors").exists() and not (result.folder / "curve.png").exists()


def test_output_off_a_terminal_is_short_and_complete(tmp_path, capsys):
    start(tmp_path, "run", chunks=10, quiet=False)
    text = capsys.readouterr().out
    assert text.count(" updates  ") <= 10
    for expected in (
        "parameters  3 per seed",
        "compiled in",
        "MiB per seed",
        "10/10 updates",
        "95 % interval",
        "steps/s",
    ):
        assert expected in text
    assert "curve.png" in text and "\x1b" not in text


@dataclass(frozen=True)
class Offline(Walker):
    """Takes no steps and reads shared data."""

    @property
    def steps_per_update(self):
        return 0

    def update(self, carry, data=None):
        return carry, {"loss": data["x"].sum() + 0 * carry["lr"]}


def test_an_offline_learner_needs_updates_and_shares_its_data(tmp_path):
    config = replace(CONFIG, run_dir=tmp_path / "run", num_updates=3)
    result = run(Offline(Walk(3)), HP_VALUES, config, data={"x": np.arange(4.0, dtype=np.float32)})
    assert (result.metrics["train/loss"] == 6.0).all() and result.metrics["train/loss"].shape == (3, 4)
    with pytest.raises(ValueError, match="num_updates is None"):
        run(Offline(Walk(3)), HP_VALUES, replace(config, num_updates=None))


def test_a_learner_without_returns_is_refused_before_compiling(tmp_path):
    class Mute(Walker):
        def evaluate(self, carry, key):
            return {"score": key.sum() if False else 0.0 * carry["lr"]}

    with pytest.raises(ValueError, match=r"Mute.evaluate gives \['score'\]; needed: 'episode_return'"):
        run(Mute(Walk(3)), HP_VALUES, replace(CONFIG, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "wrong", [{"num_seeds": 0}, {"chunks": -1}, {"total_steps": 0}, {"seeds_per_batch": 0}, {"seed": -1}]
)
def test_wrong_settings_are_named(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name} is {value}; allowed"):
        RunConfig(**wrong)
