"""The command line, as its users meet it: as a program, with mistakes, killed and continued."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toy

from covey.experiment import cli
from covey.experiment.runner import RunConfig, RunResult

PROGRAM = Path(toy.__file__)


def start(*argv, **env):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "100"} | env
    command = [sys.executable, str(PROGRAM), *map(str, argv)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def fails(capsys, *argv):
    """The one line on stderr of a command that must leave with status 2."""
    with pytest.raises(SystemExit) as exit:
        toy.main(list(map(str, argv)))
    assert exit.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    assert captured.out == ""
    return captured.err


def run_metrics(folder):
    with np.load(folder / "metrics.npz") as file:
        return dict(file)


# --- A run, killed and continued ---


def test_killed_at_any_moment_and_resumed_equals_undisturbed(tmp_path):
    code, out, err = finish(start("walk", "--run-dir", tmp_path / "whole", "--num-seeds", 3, "--no-video"))
    assert code == 0, err
    assert "toy walk" in out and "Walk(num_agents=3, target=3.0)" in out and "3 (0 to 2)" in out

    process = start("walk", "--run-dir", tmp_path / "killed", "--num-seeds", 3, "--no-video", TOY_SLOW="1")
    lines = iter(process.stdout.readline, "")
    assert any(line.startswith("SAVED 60") for line in lines)  # half-way
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "metrics.npz").exists()

    code, out, err = finish(start("--resume", tmp_path / "killed"))
    assert code == 0, err
    assert "resuming after update 60 of 120" in out or "resuming after update 80 of 120" in out
    whole, killed = run_metrics(tmp_path / "whole"), run_metrics(tmp_path / "killed")
    for name, value in whole.items():
        np.testing.assert_array_equal(value, killed[name], err_msg=name)
    policies = [(tmp_path / name / "policy.safetensors").read_bytes() for name in ("whole", "killed")]
    assert policies[0] == policies[1]


def test_interrupt_says_how_to_go_on(tmp_path):
    process = start("walk", "--run-dir", tmp_path / "run", TOY_SLOW="1")
    assert any(line.startswith("SAVED 40") for line in iter(process.stdout.readline, ""))
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130 and f"Continue with --resume {tmp_path / 'run'}" in err and "Traceback" not in err


def test_resume_takes_free_settings_and_refuses_others(tmp_path, capsys):
    folder = tmp_path / "run"
    toy.main(["walk", "--run-dir", str(folder), "--preset-scale", "small", "--no-video"])
    assert json.loads((folder / "config.json").read_text())["args"]["env"]["num_agents"] == 2
    capsys.readouterr()
    toy.main(["--resume", str(folder), "--chunks", "5"])
    assert "finished already" in capsys.readouterr().out
    toy.main(["walk", "--preset-scale", "small", f"--resume={folder}"])
    capsys.readouterr()
    assert "noise.scale was 0.1, now 0.5" in fails(capsys, "--resume", folder, "--scale", 0.5)
    assert "is missing" in fails(capsys, "--resume", tmp_path / "nowhere")
    assert "holds a run already" in fails(capsys, "walk", "--run-dir", folder)

    damaged = next((folder / "checkpoints").glob("*/state/_METADATA"))
    for path in (folder / "checkpoints").glob("*/state/_METADATA"):
        path.write_bytes(path.read_bytes()[:-3])
    assert "_METADATA is damaged" in fails(capsys, "--resume", folder)
    assert damaged.exists()


def test_a_diverged_seed_gives_status_3(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        toy.main(["walk", "--run-dir", str(tmp_path / "run"), "--explode-at", "0", "--total-steps", "40"])
    assert exit.value.code == 3
    assert (tmp_path / "run" / "policy.safetensors").exists()
    assert "seed 3 diverged" in capsys.readouterr().err


# --- Help and mistakes ---


def test_help_lists_presets_environments_and_every_setting(capsys):
    with pytest.raises(SystemExit) as exit:
        toy.main(["--help"])
    assert exit.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", "").split())
    for expected in (
        *("walk Walk, 3 agents, 4 seeds, 1,200 steps; scales: paper, small", "plain_walk", "--preset-scale"),
        *("--env.num-agents INT", "Number of agents that walk.", "--env.target", "in metres. (default: 3.0)"),
        *("--scale FLOAT", "Standard deviation, in metres.", "--learning-rate", "--num-seeds", "--seeds-per-batch"),
    ):
        assert expected in text
    assert "Args(" not in text


def test_help_into_a_closed_pipe_is_no_error():
    process = start("--help")
    process.stdout.close()
    assert process.wait(timeout=60) == 0 and process.stderr.read() == ""


def test_help_of_a_preset_shows_its_defaults(capsys):
    with pytest.raises(SystemExit):
        toy.main(["far", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "Where the agents should be, in metres. (default: 1000.0)" in text and "Settings of far" in text


def test_mistakes_are_one_line(capsys, tmp_path):
    assert "did you mean walk" in fails(capsys, "wlak")
    assert "environments: plain_walk" in fails(capsys, "nothing-like-it")
    assert "presets: walk, far" in fails(capsys)
    assert "--num-seeds" not in fails(capsys, "--num-seeds", 3)
    assert "--preset-scale is big; walk has: paper, small" in fails(capsys, "walk", "--preset-scale", "big")
    assert "plain_walk is an environment" in fails(capsys, "plain_walk", "--preset-scale", "small")
    assert "--resume needs a value" in fails(capsys, "--resume")
    assert "num_seeds is 0; allowed" in fails(capsys, "walk", "--num-seeds", 0)
    assert "num_seeds is -1; allowed" in fails(capsys, "walk", "--num-seeds", -1)
    assert "num_agents is 0; allowed" in fails(capsys, "walk", "--env.num-agents", 0)
    assert "at most 6 (there are six colours)" in fails(capsys, "walk", "--env.num-agents", 7)
    run_dir = ("--run-dir", tmp_path / "run")
    assert "a divisor of the 4 seeds" in fails(capsys, "walk", "--seeds-per-batch", 3, *run_dir)
    (tmp_path / "file").write_text("")
    assert "cannot write to the run folder" in fails(capsys, "walk", "--runs-dir", tmp_path / "file")


@pytest.mark.parametrize("argv", [["--num-sedes", "3"], ["--num-seeds", "many"], ["stray"]])
def test_unknown_flags_and_values_leave_with_status_2(capsys, argv):
    with pytest.raises(SystemExit) as exit:
        toy.main(["walk", *argv])
    assert exit.value.code == 2
    assert argv[0].removeprefix("--num-") in capsys.readouterr().err


def test_a_real_bug_keeps_its_traceback(tmp_path):
    def build(args):
        class Broken(toy.Walker):
            def update(self, carry, data=None):
                raise TypeError("a bug")

        return Broken(args.env), toy.HP_VALUES

    with pytest.raises(TypeError, match="a bug"):
        cli.main("toy", "", toy.PRESETS, build, argv=["walk", "--run-dir", str(tmp_path / "run")])


def test_flags_make_the_settings():
    default = toy.PRESETS["walk"]["paper"]
    args = cli.parse(default, ["--env.target", "5", "--env.num_agents", "2", "--scale", "0.3", "--chunks", "4"])
    assert args == toy.Args(toy.Walk(2, target=5.0), toy.Noise(0.3), toy.Hp(), args.run)
    assert type(args) is toy.Args and type(args.env) is toy.Walk and args.run.chunks == 4
    assert cli.parse(default, []) == default


def test_a_name_is_proposed_once(capsys):
    with pytest.raises(SystemExit):
        cli.main("toy", "", toy.PRESETS, lambda args: (None, None), env_ids=["walk"], argv=["walkk"])
    assert "did you mean walk? presets" in capsys.readouterr().err


def test_a_run_can_go_to_another_runner(tmp_path):
    seen = []

    def runner(learner, hp, config, description, *, data, render):
        seen.append((learner.env.num_agents, config.total_steps, description["preset"], callable(render)))
        return RunResult(tmp_path, None, {}, {}, {})

    with cli.runs_go_to(runner):
        toy.main(["walk", "--total-steps", "40", "--env.num-agents", "2"])
    assert seen == [(2, 40, "walk", True)] and not list(tmp_path.iterdir())
    with pytest.raises(KeyError), cli.runs_go_to(lambda *args, **kwargs: {}["no such"]):
        toy.main(["walk"])
    assert toy.main(["walk", "--total-steps", "10", "--run-dir", str(tmp_path / "run"), "--quiet"]).metrics


def test_an_environment_without_preset_uses_general_settings(tmp_path, capsys):
    result = toy.main(["plain_walk", "--run-dir", str(tmp_path / "run"), "--total-steps", "40", "--num-seeds", "2"])
    assert result.metrics["eval/episode_return"].shape == (4, 2, 2)
    assert "video.gif" in capsys.readouterr().out


def test_folders_are_named_after_program_preset_and_time(tmp_path, capsys):
    first, second = (toy.main(["far", "--runs-dir", str(tmp_path), "--total-steps", "10", "--quiet"]) for _ in "ab")
    assert first.folder.name.startswith("toy-far-20") and first.folder != second.folder
    assert capsys.readouterr().out == ""


def test_run_config_is_documented_field_by_field():
    documented = re.findall(r'^    (\w+): .*\n    """', inspect.getsource(RunConfig), flags=re.MULTILINE)
    assert documented == list(RunConfig.__dataclass_fields__)
