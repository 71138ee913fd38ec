"""Several runs in one figure, table and CSV file; figures and pictures by themselves."""

import csv
import json
from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest
from toy import HP_VALUES, Noise, Walk, Walker

from covey.experiment import RunConfig, compare, run
from covey.experiment.compare import Finished, labels
from covey.experiment.statistics import bootstrap_interval, iqm
from covey.experiment.video import save_gif


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that differ in their noise, one of them with a seed that diverged."""
    folder = tmp_path_factory.mktemp("runs")
    config = RunConfig(num_seeds=5, total_steps=60, num_evaluations=3, chunks=2, quiet=True, video=False)
    results = []
    for name, scale in (("calm", 0.1), ("noisy", 2.0)):
        explode = np.array([1e9] * 4 + [0.0 if name == "noisy" else 1e9], np.float32)
        about = {"program": "toy", "preset": "walk", "args": {"noise": Noise(scale), "run": config}}
        learner = Walker(Walk(2), Noise(scale))
        results.append(run(learner, HP_VALUES | {"explode_at": explode}, replace(config, run_dir=folder / name), about))
    return results


def test_figure_table_and_csv(runs, tmp_path, capsys):
    from PIL import Image

    out, table = tmp_path / "compare.png", tmp_path / "compare.csv"
    compare.main([*(str(r.folder) for r in runs), "--out", str(out), "--csv", str(table)])
    printed = capsys.readouterr().out
    assert "toy, scale=0.1" in printed and "toy, scale=2.0" in printed
    with Image.open(out) as image:
        assert image.size[0] > 800
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["run"], r["env_steps"], r["seeds"]) for r in rows] == [
        *[("toy, scale=0.1", s, "5") for s in ("20", "40", "60")],
        *[("toy, scale=2.0", s, "4") for s in ("20", "40", "60")],
    ]
    final = runs[1].metrics["eval/return"][-1, :4]
    low, high = bootstrap_interval(runs[1].metrics["eval/return"][[1, 3, 5], :4].T)
    assert float(rows[-1]["iqm"]) == pytest.approx(float(iqm(final)), rel=1e-6)
    assert (float(rows[-1]["low"]), float(rows[-1]["high"])) == pytest.approx((low[-1], high[-1]), rel=1e-6)


def test_unfinished_runs_and_wrong_labels_are_one_line(runs, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    for argv, expected in [
        ([str(tmp_path)], "is not finished"),
        ([str(tmp_path / "none")], "holds no run"),
        ([str(runs[0].folder), "--labels", "a", "b"], "--labels has 2 names"),
        ([str(runs[0].folder), "--out", str(tmp_path / "no" / "x.png")], "cannot be written"),
        ([str(runs[0].folder), "--csv", str(tmp_path)], "cannot be written"),
        ([str(runs[0].folder), "--out", str(tmp_path / "x.xyz")], "allowed: a name that ends in .png, .pdf, .svg"),
    ]:
        with pytest.raises(SystemExit) as exit:
            compare.main(["--out", str(tmp_path / "x.png"), *argv])
        err = capsys.readouterr().err
        assert exit.value.code == 2 and expected in err and err.count("\n") == 1


def finished(program, preset, name="run", **args):
    from pathlib import Path

    return Finished(Path(name), {"program": program, "preset": preset, "args": args}, {}, np.zeros(1), np.zeros((1, 1)))


def test_labels_say_what_differs():
    hyper, full = {"type": "Hypernet", "width": 64}, {"type": "FuPS", "layers": 2}
    pair = [finished("ippo", "walk", sharing=hyper), finished("ippo", "walk", sharing=full)]
    assert labels(pair) == ["ippo, Hypernet", "ippo, FuPS"]
    assert labels([finished("ippo", "walk"), finished("mappo", "far")]) == ["ippo walk", "mappo far"]
    assert labels([finished("ippo", "walk", "a"), finished("ippo", "walk", "b")]) == ["ippo (a)", "ippo (b)"]
    wide = [finished("ippo", "walk", sharing=hyper), finished("ippo", "walk", sharing=hyper | {"width": 128})]
    assert labels(wide) == ["ippo, width=64", "ippo, width=128"]


def test_gif_keeps_time_and_refuses_bad_frames(tmp_path):
    from PIL import Image

    frames = [np.full((8, 10, 3), shade, np.uint8) for shade in (0, 80, 160, 240)]
    save_gif(tmp_path / "a.gif", frames, fps=10)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 4 and gif.info == gif.info | {"duration": 100, "loop": 0}
        gif.seek(2)
        np.testing.assert_allclose(np.asarray(gif.convert("RGB")), frames[2], atol=3)
    with pytest.raises(ValueError, match="frames is empty"):
        save_gif(tmp_path / "b.gif", [])
    with pytest.raises(ValueError, match=r"frame 1 is float64\[8, 10, 3\]"):
        save_gif(tmp_path / "b.gif", [frames[0], frames[1] * 1.0])
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]


def test_settings_are_recorded_as_json():
    from covey.experiment.folder import describe

    @dataclass(frozen=True)
    class Part:
        array: object
        function: object = np.tanh
        nested: tuple = (Noise(0.5), None)

    recorded = describe({"part": Part(jax.numpy.arange(2))})
    assert json.loads(json.dumps(recorded)) == {
        "part": {"type": "Part", "array": [0, 1], "function": "tanh", "nested": [{"type": "Noise", "scale": 0.5}, None]}
    }
