"""Offline learning through the command line: a dataset made by a command, tiny runs on it, resuming, mistakes."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_programs import assert_same_run, metrics, run

from covey.data import load

NAVIGATION = ["navigation", "--env.num-agents", "2", "--env.max-steps", "8"]
TINY = (  # noqa: SIM905
    "--num-seeds 2 --num-updates 4 --num-evaluations 2 --chunks 2 --gradient-steps 2 --batch-size 4 --eval-episodes 2 "
    "--hidden-sizes 8 --critic-hidden-sizes 8 --no-video"
).split()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    """Some steps of a MATD3 that has hardly learned."""
    path = tmp_path_factory.mktemp("data") / "navigation"
    training = (  # noqa: SIM905
        "--num-seeds 2 --num-updates 2 --num-evaluations 1 --chunks 1 --num-envs 2 --num-steps 4 --gradient-steps 2 "
        "--batch-size 4 --buffer-size 64 --eval-episodes 1 --hidden-sizes 4 --critic-hidden-sizes 4 --no-video "
        "--play-steps 64 --play-envs 4"
    ).split()
    where = ["--run-dir", str(path.parent / "run"), "--dataset", str(path)]
    out = run("baselines/offline_data.py", *NAVIGATION, *training, *where)
    assert f"dataset of 128 transitions in {path}" in out
    return str(path)


def test_dataset_is_what_was_played(dataset):
    data = load(dataset)
    assert data.num_agents == 2 and data.num_transitions == 128 and (np.abs(data.action) <= 1).all()
    assert np.std(data.action) > 0.1 and {part["seed"] for part in data.provenance["of"]} == {0, 1}


def test_run_with_everything_resumes_bitwise(dataset, tmp_path):
    """Memory, a world model and priorities: cut in two, as after a kill, and in one."""
    flags = (  # noqa: SIM905
        "--horizon 4 --recurrent --recurrent-size 4 --sampling pjap --refresh 4 --rollouts 4 --rollout-length 2 "
        "--model-steps 2 --model-hidden-sizes 6 --model-batch-size 4 --warmup-updates 1"
    ).split()
    command = ["baselines/offline.py", *NAVIGATION, *TINY, *flags, "--dataset", dataset]
    run(*command, "--run-dir", str(tmp_path / "whole"))
    script = (
        "import sys, runpy\n"
        "from covey.experiment import checkpoint\n"
        "save = checkpoint.save\n"
        "def once(folder, done, state):\n"
        "    save(folder, done, state)\n"
        "    raise KeyboardInterrupt\n"
        "checkpoint.save = once\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    run("-c", script, *command, "--run-dir", str(tmp_path / "cut"), status=130)
    run("baselines/offline.py", "--resume", str(tmp_path / "cut"))
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    found = metrics(tmp_path / "whole")
    for name in ("train/bc_loss", "train/model_error", "train/rollout_uncertainty", "train/critic_loss"):
        assert np.isfinite(found[name]).all(), name
    assert found["eval/episode_return"].shape == (4, 2, 2) and np.isfinite(found["eval/episode_return"][-1]).all()
    assert json.loads((tmp_path / "whole/config.json").read_text())["args"]["learning"]["dataset"] == dataset
    assert all(value.shape[0] == 2 for value in load_file(tmp_path / "whole/policy.safetensors").values())


def test_game_needs_no_dataset(tmp_path):
    run("baselines/offline.py", "twin-peaks", *TINY, "--base", "iql", "--run-dir", str(tmp_path / "run"))
    assert np.isfinite(metrics(tmp_path / "run")["train/value_loss"]).all()


def test_mistakes_give_one_line(dataset, tmp_path):
    other = [*NAVIGATION[:1], "--env.num-agents", "3", "--dataset", dataset]
    cases = [
        (NAVIGATION, "dataset is None; allowed: the folder of a dataset"),
        (other, "dataset and environment do not fit: the dataset has 2 agents, not 3"),
        ([*NAVIGATION, "--dataset", str(tmp_path)], "header.json"),
        (
            [*NAVIGATION, "--dataset", dataset, "--horizon", "9"],
            "horizon 9 with stride 1: length is 9; allowed: at most 8",
        ),
        (["specialisation", "--dataset", dataset], "offline learners need vectors of continuous actions"),
    ]
    for flags, message in cases:
        error = run("baselines/offline.py", *flags, *TINY, "--run-dir", str(tmp_path / "none"), status=2)
        assert message in error and len(error.strip().splitlines()) == 1, error
