"""Studies: what their files may say, what is run and what is not, and what the tables hold."""

import csv
import fcntl
from pathlib import Path

import numpy as np
import pytest
import toy

from covey.experiment import checkpoint, study
from covey.experiment.statistics import bootstrap_interval, iqm

REPOSITORY = Path(study.__file__).parents[3]
TEXT = f"""
title = "Walks"
seeds = 3
compare = "rate"
baseline = "slow"
pool = true
preset = "{{preset}}"
program = "{toy.__file__}"
flags = {{"env.num-agents" = 2, total-steps = 60, num-evaluations = 2, chunks = 2, video = false}}

[factors.preset]
walk = {{}}
far = {{}}

[factors.rate]
slow = {{flags = {{learning-rate = 0.05}}}}
fast = {{flags = {{learning-rate = 0.5}}}}

[small]
seeds = 2
levels = {{preset = ["walk"]}}
flags = {{num-evaluations = 1}}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "walks.toml"
    path.write_text(TEXT)
    return path


def run(file, *argv):
    study.main([str(file), "--runs", str(file.parent / "runs"), *argv])


def fails(capsys, file, *argv):
    with pytest.raises(SystemExit) as leaving:
        run(file, *argv)
    assert leaving.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def table(path):
    with path.open() as lines:
        head = [next(lines), next(lines)]
        assert all(line.startswith("# ") for line in head)
        return head, list(csv.DictReader(lines))


def test_runs_every_cell_once_and_averages_nothing_away(file, tmp_path, capsys):
    run(file)
    out = capsys.readouterr().out
    assert out.count("not begun") == 4 and (tmp_path / "walks" / "return.png").stat().st_size > 1000
    head, rows = table(tmp_path / "walks" / "results.csv")
    assert "python -m covey.experiment.study" in head[0] and "jax" in head[1] and "commit" in head[1]
    returns = [row for row in rows if row["metric"] == "eval/episode_return"]
    # cells x seeds x evaluations x agents
    assert len({tuple(row[k] for k in ("cell", "seed", "env_steps", "agent")) for row in returns}) == 4 * 3 * 2 * 2
    assert {row["env_steps"] for row in returns} == {"30", "60"} and {row["rate"] for row in rows} == {"slow", "fast"}
    _, lines = table(tmp_path / "walks" / "summary.csv")
    ends = {}
    for row in rows:
        if (row["metric"], row["env_steps"]) == ("eval/return", "60"):
            ends.setdefault(row["cell"], []).append(float(row["value"]))
    ends = {name: np.array(values) for name, values in ends.items()}
    by_cell = {(line["cell"], line["rate"]): line for line in lines}
    assert float(by_cell["walk-slow", "slow"]["iqm"]) == pytest.approx(iqm(ends["walk-slow"]), rel=1e-5)
    pooled = by_cell["all 2 panels", "fast"]
    low, high = bootstrap_interval([ends["walk-fast"], ends["far-fast"]])
    assert [float(pooled[k]) for k in ("low", "high")] == pytest.approx([low, high], rel=1e-5)
    assert (
        by_cell["walk-fast", "fast"]["best"] == "best" and float(by_cell["walk-fast", "fast"]["p_above_baseline"]) == 1
    )

    files = sorted((tmp_path / "runs").rglob("*.npz"))
    times = [path.stat().st_mtime_ns for path in files]
    run(file)
    assert capsys.readouterr().out.count("finished before") == 4
    assert [path.stat().st_mtime_ns for path in files] == times


def test_resumes_a_cell_that_was_cut_off(file, tmp_path, capsys, monkeypatch):
    run(file, "--only", "walk-slow")
    whole = (tmp_path / "runs" / "walks" / "walk-slow" / "metrics.csv").read_bytes()
    save, other = checkpoint.save, tmp_path / "other"

    def interrupt(*args):
        save(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", interrupt)
    with pytest.raises(SystemExit) as leaving:
        run(file, "--only", "walk-slow", "--runs", str(other))
    assert leaving.value.code == 130
    monkeypatch.setattr(checkpoint, "save", save)
    capsys.readouterr()
    run(file, "--only", "walk-slow", "--runs", str(other))
    out = capsys.readouterr().out
    assert "walk-slow: cut off" in out and "resuming after update 3 of 6" in out
    assert (other / "walks" / "walk-slow" / "metrics.csv").read_bytes() == whole


def test_a_cell_that_another_process_has_is_left_to_it(file, tmp_path, capsys):
    lock = tmp_path / "runs" / "walks" / "walk-slow.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        run(file, "--only", "walk-slow")
    out = capsys.readouterr().out
    assert "left to another process" in out and "no cell is finished" in out
    assert not (tmp_path / "runs" / "walks" / "walk-slow").exists()


def test_small_variant_and_dry_run(file, tmp_path, capsys):
    run(file, "--small", "--dry-run")
    out = capsys.readouterr().out
    assert "walk-slow: not begun; 2 seeds, 60 steps, 1 evaluations" in out and "far-" not in out
    assert f"python {toy.__file__} walk --num-seeds 2 --env.num-agents 2 --total-steps 60" in out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('baseline = "slow"', 'basline = "slow"', "the study has 'basline'; did you mean baseline?"),
        ('compare = "rate"', 'compare = "rates"', "compare has 'rates'; did you mean rate?"),
        ("seeds = 3", "seeds = 0", "seeds is 0"),
        ("seeds = 3", 'seeds = "3"', "seeds of the study is '3'"),
        ("title", "= title", "is not TOML"),
        ("learning-rate = 0.5}", "lerning-rate = 0.5}", "cell walk-fast: Unrecognized options: --lerning-rate"),
        ("far = {}", "fa = {}", "cell fa-slow: no preset or environment is called 'fa'; did you mean"),
        ("far = {}", 'far = {program = "nothing.py"}', "cell far-slow: there is no program nothing.py"),
        ('"{preset}"', '"{presets}"', "'{presets}' has something in braces; allowed there: preset, rate"),
        ("learning-rate = 0.5}", "total-steps = 70}", "env_steps of walk-fast and walk-slow differ: 70 and 60"),
        ("learning-rate = 0.5}", "num-evaluations = 3}", "walk-fast and walk-slow differ: after 20, 40, 60 steps and"),
        ("learning-rate = 0.5}", "seed = 4}", "flags has seed, which the study sets itself"),
        ("pool = true", 'without = [{rate = "quick"}]', "without.rate has 'quick'"),
        ("pool = true", 'without = [{rate = 3}]', "without.rate is 3; allowed: a level, or a list of levels"),
        ("pool = true", 'scores = ["eval/retrun"]', "(cell walk-fast) has 'eval/retrun'; did you mean eval/return?"),
        ("pool = true", "scores = []", "scores is []; allowed: a list of names"),
        ("pool = true", "metrics = [3]", "metrics is [3]; allowed: a list of names"),
        ("learning-rate = 0.5}", "num_seeds = 4}", "flags has num_seeds, which the study sets itself"),
        ("learning-rate = 0.5}", "env.num-agents = 4}", 'flags in quotes, "env.num-agents" = ...'),
        ('levels = {preset = ["walk"]}', "levels = {preset = []}", "small.levels.preset is []; allowed: a list"),
        ('levels = {preset = ["walk"]}', 'levels = {preset = "walk"}', "small.levels.preset is 'walk'"),
        ("far = {}", 'far = {program = "setup.sh"}', "program is setup.sh; allowed: a Python file"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_before_anything_compiles(file, tmp_path, capsys, old, new, said):
    file.write_text(TEXT.replace(old, new, 1))
    assert said in fails(capsys, file, *(["--small"] if "levels" in new else []))
    assert not (tmp_path / "runs").exists()


def test_changed_settings_are_not_mixed_with_runs_that_are_there(file, capsys):
    run(file, "--only", "walk-slow")
    capsys.readouterr()
    file.write_text(TEXT.replace("learning-rate = 0.05", "learning-rate = 0.06"))
    error = fails(capsys, file)
    assert "cell walk-slow" in error and "learning_rate was 0.05, now 0.06" in error


def test_files_that_hold_no_study_are_one_line(tmp_path, capsys):
    assert "cannot be read" in fails(capsys, tmp_path)
    (tmp_path / "picture.toml").write_bytes(b"\x89PNG\xff")
    assert "picture.toml is not TOML" in fails(capsys, tmp_path / "picture.toml")


def test_a_cell_whose_seeds_all_diverged_leaves_the_tables_of_others(file, tmp_path, capsys, monkeypatch):
    curves = study.curves

    def broken(path, score):
        steps, values = curves(path, score)
        return steps, values[:0] if path.name == "walk-slow" else values

    monkeypatch.setattr(study, "curves", broken)
    run(file)
    _, lines = table(tmp_path / "walks" / "summary.csv")
    by_cell = {(line["cell"], line["rate"]): line for line in lines}
    assert by_cell["walk-slow", "slow"]["seeds"] == "0" and by_cell["walk-slow", "slow"]["iqm"] == ""
    assert by_cell["walk-fast", "fast"]["best"] == "best" and by_cell["walk-fast", "fast"]["p_above_baseline"] == "nan"
    assert ("all 1 panels", "slow") in by_cell  # Of the panel where both have runs.


def test_only_a_cell_that_there_is(file, capsys):
    assert "--only has 'walk-slwo', which no cell matches; did you mean walk-slow?" in fails(
        capsys, file, "--only", "walk-slwo"
    )


@pytest.mark.parametrize("path", sorted((REPOSITORY / "results" / "studies").glob("*.toml")), ids=lambda p: p.stem)
@pytest.mark.parametrize("small", [False, True])
def test_studies_of_this_project_are_sound(path, small, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    made = study.cells(study.read(path, small))
    assert len({cell.name for cell in made}) == len(made)
    assert all(Path(cell.program).is_file() for cell in made)
    if "mujoco" not in path.stem:  # robots take seconds to build
        loaded = study.read(path, small)
        study.check_budgets(loaded, [study.prepare(cell) for cell in made[:: len(loaded.factors[loaded.compare]) + 1]])
