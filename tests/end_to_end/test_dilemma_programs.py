"""The programs with social rewards through their command lines: tiny runs, and mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_programs import ROOT, assert_same_run, metrics, run

TINY = (  # noqa: SIM905
    "--preset-scale small --env.max-steps 6 --num-envs 4 --num-steps 8 --num-minibatches 2 --update-epochs 1 "
    "--eval-episodes 2 --num-seeds 2 --hidden-sizes 8 --encoder-size 6 --num-updates 4 --num-evaluations 2 --chunks 2"
).split()
GOSSIP = ("train/information_age", "train/reward_range", "train/social_reward", "train/shaped_return")


@pytest.mark.parametrize(
    "program,task,names",
    [
        ("algos/fair_local_ippo.py", ["harvest_5high_5low"], (*GOSSIP, "train/envy", "eval/return/low", "eval/peace")),
        (
            "algos/fair_local_ippo.py",
            ["cleanup_high_low", "--social.method", "fair_local_svo", "--sharing", "hyper_mlp", "--recurrent",
             "--recurrent-size", "8", "--hypernet-hidden-sizes", "6", "--social.feedback", "memory"],
            (*GOSSIP, "train/reward_angle", "eval/cleaned", "eval/waste_share"),
        ),
        (
            "baselines/social_ippo.py",
            ["coins_1high_1low", "--social.method", "inequity_aversion", "--sharing", "fups_id", "--env.observation",
             "rgb", "--env.map", "4x4", "--conv-channels", "4"],
            ("train/guilt", "eval/own_coin_share/high", "eval/coins_other"),
        ),
    ],
)  # fmt: skip
def test_program_trains_and_leaves_everything(program, task, names, tmp_path):
    folder = tmp_path / "run"
    run(program, *task, *TINY, "--run-dir", str(folder))
    found = metrics(folder)
    for name in names:
        assert np.isfinite(found[name][-1]).all(), name
    assert np.isfinite(found["train/loss"]).all() and found["finite"].all()
    assert any("encoder/cells/kernel" in name for name in load_file(folder / "policy.safetensors"))
    assert json.loads((folder / "config.json").read_text())["args"]["social"]["method"] != "selfish"
    assert (folder / "video.gif").exists() and (folder / "curve.png").exists()


def test_chunks_do_not_change_results(tmp_path):
    """Whatever a social reward remembers is kept in a checkpoint."""
    command = ["algos/fair_local_ippo.py", "coins", *TINY, "--env.map", "4x4", "--no-video", "--run-dir"]
    run(*command, str(tmp_path / "two"))
    run(*command, str(tmp_path / "one"), "--chunks", "1")
    assert_same_run(tmp_path / "two", tmp_path / "one")


def test_any_environment_takes_a_social_reward(tmp_path):
    """Without a `visible`, all see all; without events to count there are no social outcomes."""
    flags = [*TINY[4:], "--env.num-agents", "3", "--env.max-steps", "8", "--no-video", "--social.method", "common"]
    run("baselines/social_ippo.py", "specialisation", *flags, "--run-dir", str(tmp_path / "run"))
    found = metrics(tmp_path / "run")
    assert found["train/shaped_return"].shape == (4, 2, 3) and "eval/peace" not in found


MISTAKES = {
    "alpha": (["harvest", "--social.alpha", "-1"], "social: alpha is -1.0; allowed: numbers of at least 0"),
    "weights": (["harvest_5high_5low", "--social.agent-weights", "1", "2", "3"], "one for each of 10 agents"),
    "angle": (["coins", "--social.target-angle", "100"], "target_angle is 100.0; allowed: numbers in [0, 90]"),
    "method": (["coins", "--social.method", "fair"], "'fair' for argument '--social.method'. Expected one of"),
    "switch": (["coins", "--social.nomalise", "none"], "did you mean --social.normalise?"),
    "numbers": (["coins", "--social.numbers", "chess"], "social.numbers is 'chess'; allowed: coins"),
    "groups": (["coins", "--social.method", "group_shared"], "groups is None"),
    "groups of": (["coins", "--social.method", "group_shared", "--social.groups", "0"], "each of 2 agents"),
    "encoder": (["coins", "--encoder", "pixels"], "encoder is 'pixels'; allowed"),
    "preset": (["harvst"], "did you mean harvest"),
}


def test_mistakes_give_one_line_and_status_two():
    script = (
        "import io, json, runpy, sys, contextlib\n"
        "for name, argv in json.loads(sys.argv[1]).items():\n"
        "    sys.argv = ['fair_local_ippo.py', *argv]\n"
        "    err = io.StringIO()\n"
        "    try:\n"
        "        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):\n"
        "            runpy.run_path('algos/fair_local_ippo.py', run_name='__main__')\n"
        "        status = 0\n"
        "    except SystemExit as e:\n"
        "        status = e.code\n"
        "    print(json.dumps([name, status, err.getvalue()]))\n"
    )
    out = run("-c", script, json.dumps({name: argv for name, (argv, _) in MISTAKES.items()}))
    for name, status, text in map(json.loads, out.splitlines()):
        assert status == 2, (name, text)
        assert MISTAKES[name][1] in text and len(text.strip().splitlines()) == 1, (name, text)


def test_every_preset_is_sound():
    """Both scales of each fit together: environment, networks, weights of agents; nothing is compiled."""
    script = (
        "import jax\n"
        "from algos.dilemmas import MethodName, build\n"
        "from algos.fair_local_ippo import PRESETS\n"
        "from dataclasses import replace\n"
        "for name, scales in PRESETS.items():\n"
        "    for scale, args in scales.items():\n"
        "        for method in set(MethodName.__args__) - {'group_shared'}:\n"
        "            job = build(replace(args, social=replace(args.social, method=method)))\n"
        "        w = build(args).hp.social.agent_weights\n"
        "        assert name in ('harvest',) or 'cleanup' in name or len(set(w)) == 2, (name, w)\n"
        "    print(name, args.env.num_agents)\n"
    )
    lines = run("-c", script).splitlines()
    assert len(lines) == 9 and Path(ROOT / "algos/dilemmas.py").exists()
