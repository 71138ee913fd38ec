"""CODA's programs through their command line: tiny runs, resuming, and mistakes."""

import json

import numpy as np
import pytest
from test_programs import assert_same_run, metrics, run

TINY = (  # noqa: SIM905
    "--preset-scale small --num-seeds 2 --num-updates 6 --num-evaluations 3 --chunks 1 --num-samples 8 --batch-size 8 "
    "--fit-steps 5 --fit-batch-size 8 --features 4 --norm-groups 1 --num-steps 4 --data-size 200"
).split()


def test_program_trains_resumes_and_leaves_everything(tmp_path):
    command = ["algos/coda.py", "twin-peaks", *TINY, "--run-dir"]
    run(*command, str(tmp_path / "one"))
    found = metrics(tmp_path / "one")
    for name in ("train/theta", "train/policy_distance", "train/reward_error", "train/fit_validation_loss"):
        assert np.isfinite(found[name]).all(), name
    assert (found["train/fit_loss"] == found["train/fit_loss"][:1]).all(), "fitted once"
    for name in ("curve.png", "video.gif", "paths.png", "policy.safetensors", "metrics.csv"):
        assert (tmp_path / "one" / name).exists(), name
    run(*command, str(tmp_path / "three"), "--chunks", "3", "--no-video")
    assert_same_run(tmp_path / "one", tmp_path / "three")


def test_baseline_without_a_generator(tmp_path):
    """On a game of three players that is given by its terms."""
    command = ["baselines/offline_diffusion.py", "payoff/1:1,1,1/-0.5:2,0,0", *TINY[2:], "--mode", "none"]
    run(*command, "--run-dir", str(tmp_path / "run"))
    found = metrics(tmp_path / "run")
    assert "train/fit_loss" not in found and found["train/theta"].shape == (6, 2, 3)


def test_a_payoff_that_is_none():
    text = run("algos/coda.py", "payoff/1;2", status=2)
    assert "the payoff is 'payoff/1;2'; allowed: payoff/C:D,D/C:D,D/..." in text and text.count("\n") == 1


MISTAKES = {
    "lambda": (["--guidance-scale", "-0.5"], "guidance_scale is -0.5; allowed: a number of at least 0"),
    "alpha": (["--mix", "1.2"], "mix is 1.2; allowed: a number in [0, 1]"),
    "horizon": (["--horizon", "20"], "horizon 20 with stride 1: length is 20; allowed: at most 1"),
    "mode": (["--mode", "guided"], "invalid choice 'guided' for argument '--mode'"),
    "switch": (["--guidance-scal", "1"], "did you mean --guidance-scale?"),
    "start": (["--initial", "0.1"], "start_at is (0.1,); allowed: a number for each of 2 agents"),
    "groups": (["--norm-groups", "5"], "features is 16; allowed: an even multiple of norm_groups = 5"),
    "base": (["--base", "maddqn"], "invalid choice 'maddqn' for argument '--base'"),
    "dataset": (["--dataset", "nowhere"], "nowhere"),
    "relabel": (["--relabel", "all"], "invalid choice 'all' for argument '--relabel'"),
    "point": (["--data", "gaussian", "--data-std", "0"], "all constant"),
}


@pytest.fixture(scope="module")
def complaints():
    """What each mistake prints, from one process."""
    script = (
        "import contextlib, io, json, runpy, sys\n"
        "answers = {}\n"
        "for name, flags in json.loads(sys.argv[1]).items():\n"
        "    sys.argv = ['algos/coda.py', 'multiplication', '--preset-scale', 'small', *flags]\n"
        "    error = io.StringIO()\n"
        "    with contextlib.redirect_stderr(error):\n"
        "        try:\n"
        "            runpy.run_path('algos/coda.py', run_name='__main__')\n"
        "            status = 0\n"
        "        except SystemExit as leaving:\n"
        "            status = leaving.code\n"
        "    answers[name] = (status, error.getvalue())\n"
        "print(json.dumps(answers))\n"
    )
    return json.loads(run("-c", script, json.dumps({name: flags for name, (flags, _) in MISTAKES.items()})))


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_give_one_line_and_status_two(name, complaints):
    status, text = complaints[name]
    assert status == 2 and text.count("\n") == 1 and MISTAKES[name][1] in text, text


def test_help_names_every_flag_with_its_meaning():
    text = run("algos/coda.py", "multiplication", "--help", COLUMNS="200")
    for flag in ("--mode", "--guidance-scale", "--cfg-scale", "--mix", "--data-size", "--churn", "--initial"):
        assert flag in text, flag
