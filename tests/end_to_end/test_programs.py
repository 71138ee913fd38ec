"""Every program through its command line, as a user runs it: tiny runs, help, mistakes, stopping and resuming."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
PROGRAMS = (
    "algos/hypermarl_ippo.py",
    "algos/hypermarl_mappo.py",
    "baselines/ippo.py",
    "baselines/mappo.py",
    "baselines/happo.py",
    "baselines/dico.py",
)
TINY = (  # noqa: SIM905
    "--num-envs 4 --num-steps 8 --num-minibatches 2 --update-epochs 2 --eval-episodes 2 --num-seeds 2 "
    "--hidden-sizes 8 --hypernet-hidden-sizes 6 --num-updates 6 --num-evaluations 3 --chunks 3"
).split()
MATCHING = ["specialisation", *TINY, "--env.num-agents", "2", "--env.max-steps", "8"]


def start(*command: str, **env: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "COLUMNS": "120"} | env
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run(*command: str, status: int = 0, **env: str) -> str:
    """Standard output (or, for a failure, standard error) of a command that must end with `status`."""
    process = start(*command, **env)
    out, error = process.communicate(timeout=300)
    assert process.returncode == status, f"status {process.returncode}\n{out}\n{error}"
    return error if status else out


def metrics(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "metrics.npz") as file:
        return dict(file)


def assert_same_run(a: Path, b: Path, exact: bool = True) -> None:
    for x, y in ((metrics(a), metrics(b)), (load_file(a / "policy.safetensors"), load_file(b / "policy.safetensors"))):
        assert x.keys() == y.keys() and len(x) > 5
        for name in x:
            if exact:
                np.testing.assert_array_equal(x[name], y[name], err_msg=name)
            else:
                np.testing.assert_allclose(x[name], y[name], rtol=2e-3, atol=2e-5, err_msg=name)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """A finished run of HyperMARL-IPPO, in three chunks."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    run(PROGRAMS[0], *MATCHING, "--run-dir", str(folder))
    return folder


@pytest.mark.parametrize(
    "program,task",
    [
        (PROGRAMS[0], ["dispersion", "--env.max-steps", "8"]),
        (
            PROGRAMS[1],
            ["navigation", "--env.num-agents", "2", "--env.max-steps", "8", "--recurrent", "--recurrent-size", "8"],
        ),
        (PROGRAMS[2], ["synchronisation", "--env.max-steps", "8", "--sharing", "nops"]),
        (PROGRAMS[3], ["jaxmarl/MPE_simple_spread_v3", "--eval-steps", "5"]),
        (PROGRAMS[4], ["specialisation", "--env.num-agents", "3", "--env.max-steps", "8"]),
        (PROGRAMS[5], ["navigation_2_different", "--env.max-steps", "8"]),
    ],
)
def test_program_trains_and_leaves_everything(program, task, tmp_path):
    out = run(program, *task, *TINY, "--run-dir", str(tmp_path / "run"))
    for word in ("compiled in", "MiB per seed", "IQM", "95 % interval", "steps/s", "curve.png"):
        assert word in out
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["argv"][0] == task[0] and config["versions"]["jax"]
    found = metrics(tmp_path / "run")
    assert found["eval/episode_return"].shape[:2] == (6, 2)
    assert np.isfinite(found["train/loss"]).all() and found["finite"].all()
    policy = load_file(tmp_path / "run/policy.safetensors")
    assert all(value.shape[0] == 2 for value in policy.values())
    rows = (tmp_path / "run/metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 2
    assert Image.open(tmp_path / "run/curve.png").size[0] > 300
    assert Image.open(tmp_path / "run/video.gif").n_frames >= 2


def test_chunks_do_not_change_results(undisturbed, tmp_path):
    run(PROGRAMS[0], *MATCHING, "--run-dir", str(tmp_path / "one"), "--chunks", "1", "--no-video")
    assert_same_run(undisturbed, tmp_path / "one")


def test_killed_run_resumes_bitwise(undisturbed, tmp_path):
    folder = tmp_path / "killed"
    process = start(PROGRAMS[0], *MATCHING, "--run-dir", str(folder), "--no-video", "--chunks", "6")
    while process.poll() is None and not list(folder.glob("checkpoints/*/sha256sums")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "metrics.npz").exists(), "it finished before it was killed"
    out = run(PROGRAMS[0], "--resume", str(folder))
    assert "resuming after update" in out
    assert_same_run(undisturbed, folder)
    assert "finished already" in run(PROGRAMS[0], "--resume", str(folder))


def test_a_seed_among_many_equals_the_seed_alone(undisturbed, tmp_path):
    run(PROGRAMS[0], *MATCHING, "--run-dir", str(tmp_path / "alone"), "--num-seeds", "1", "--seed", "1", "--no-video")
    together, alone = metrics(undisturbed), metrics(tmp_path / "alone")
    for name in ("train/loss", "train/reward", "eval/episode_return"):
        np.testing.assert_allclose(together[name][:, 1:], alone[name], rtol=2e-3, atol=2e-5)


def test_eight_devices_equal_one(tmp_path):
    arguments = [*MATCHING, "--num-seeds", "8", "--no-video", "--run-dir"]
    run(PROGRAMS[0], *arguments, str(tmp_path / "one"))
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    out = run(PROGRAMS[0], *arguments, str(tmp_path / "eight"), XLA_FLAGS=flags)
    assert "x 8 of 8" in out
    assert_same_run(tmp_path / "one", tmp_path / "eight", exact=False)


def test_seeds_per_batch_do_not_change_results(undisturbed, tmp_path):
    run(PROGRAMS[0], *MATCHING, "--run-dir", str(tmp_path / "batched"), "--seeds-per-batch", "1", "--no-video")
    assert_same_run(undisturbed, tmp_path / "batched", exact=False)


def test_a_diverging_run_says_so_and_keeps_what_it_has(tmp_path):
    """A learning rate beyond all measure: every seed ends in NaN, the command ends with status 3, files are there."""
    bad = ["--learning-rate", "1e30", "--max-grad-norm", "1e30", "--run-dir", str(tmp_path / "run"), "--no-video"]
    error = run(PROGRAMS[2], *MATCHING, *bad, status=3)
    assert "seed 0 diverged" in error and "after update" in error
    assert (tmp_path / "run/metrics.csv").exists()


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_explains_every_field(program):
    out = run(program, "specialisation", "--help")
    for flag in ("--env.num-agents", "--num-seeds", "--learning-rate", "--sharing", "--gae-lambda", "--chunks"):
        assert flag in out
    assert "Discount per step" in out and "Adam's step size" in out


def test_mistakes_give_one_line_and_status_two(undisturbed, tmp_path):
    """One process that goes through them all, since importing is most of the time."""
    cases = {
        "unknown preset": (["dispersio"], "did you mean dispersion"),
        "no preset": ([], "presets: specialisation"),
        "unknown scale": (["dispersion", "--preset-scale", "huge"], "--preset-scale is huge"),
        "unknown sharing": (["dispersion", "--sharing", "nosp"], "invalid choice"),
        "no seeds": (["dispersion", "--num-seeds", "0"], "num_seeds is 0"),
        "negative seeds": (["dispersion", "--num-seeds", "-3"], "num_seeds is -3"),
        "minibatches": (["dispersion", "--num-minibatches", "3"], "num_minibatches is 3; allowed: a divisor of"),
        "embedding": (["dispersion", "--embedding-dim", "0"], "embedding_dim is 0"),
        "agents": (["dispersion", "--env.num-agents", "0"], "num_agents is 0"),
        "unknown flag": (["dispersion", "--nmu-seeds", "3"], "--nmu-seeds, 3; did you mean --num-seeds?"),
        "not a number": (["dispersion", "--learning-rate", "fast"], "Error parsing --learning-rate"),
        "resume other": ([*MATCHING, "--num-envs", "8", "--resume", str(undisturbed)], "num_envs"),
        "resume nothing": (["--resume", str(tmp_path / "nothing")], "holds no run"),
        "unwritable": ([*MATCHING, "--run-dir", "/proc/covey"], "cannot write"),
    }
    script = (
        "import io, json, runpy, sys, contextlib\n"
        "for name, argv in json.loads(sys.argv[1]).items():\n"
        "    sys.argv = ['hypermarl_ippo.py', *argv]\n"
        "    err, out = io.StringIO(), io.StringIO()\n"
        "    try:\n"
        "        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):\n"
        "            runpy.run_path('algos/hypermarl_ippo.py', run_name='__main__')\n"
        "        status = 0\n"
        "    except SystemExit as e:\n"
        "        status = e.code\n"
        "    print(json.dumps([name, status, err.getvalue() + out.getvalue()]))\n"
    )
    out = run("-c", script, json.dumps({name: argv for name, (argv, _) in cases.items()}))
    results = {name: (status, text) for name, status, text in map(json.loads, out.splitlines())}
    for name, (_, expected) in cases.items():
        status, text = results[name]
        assert status == 2, (name, status, text)
        assert expected in " ".join(text.split()), (name, text)
        assert "Traceback" not in text
        assert len(text.strip().splitlines()) == 1, (name, text)


def test_damaged_checkpoint_is_named_and_nothing_is_lost(tmp_path):
    folder = tmp_path / "run"
    run(PROGRAMS[2], *MATCHING, "--run-dir", str(folder), "--no-video")
    newest = max((folder / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    victim = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-7])
    before = sorted(path.name for path in folder.rglob("*"))
    error = run(PROGRAMS[2], "--resume", str(folder), status=2)
    assert len(error.strip().splitlines()) == 1 and str(newest) in error
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_a_composition_decides_the_number_of_agents():
    script = (
        "from algos.tasks import for_env; from covey.experiment import cli\n"
        "env = cli.parse(for_env('harvest'), ['--env.roles', '5high_5low']).env\n"
        "print(env.num_agents, env.observation, env.agent_classes['low'])"
    )
    assert run("-c", script).split("\n")[0] == f"10 onehot {[f'agent_{i}' for i in range(5)]}"
    flags = ("harvest", "--env.roles", "5high_5low", "--env.num-agents", "7")
    assert "which makes 10 agents; allowed: counts that add up to num_agents" in run(
        "baselines/ippo.py", *flags, status=2
    )


def test_battles_have_the_papers_settings():
    """SMAX: what the paper tunes per map reaches each program, and networks fit."""
    script = (
        "import json\n"
        "from importlib import import_module\n"
        "names = ('algos.hypermarl_ippo', 'algos.hypermarl_mappo', 'baselines.ippo', 'baselines.mappo')\n"
        "found = {}\n"
        "for name in names:\n"
        "    module = import_module(name)\n"
        "    for map_name in ('2s3z', '3s5z', 'smacv2_10_units', 'smacv2_20_units'):\n"
        "        scales = module.PRESETS[map_name]\n"
        "        for args in scales.values():\n"
        "            import_module('algos.tasks').build(args, name.endswith('mappo'))\n"
        "        args, p, hp = scales['paper'], scales['paper'].policy, scales['paper'].hp\n"
        "        found[f'{name} {map_name}'] = [\n"
        "            args.env.num_agents, p.sharing, p.recurrent, hp.learning_rate, hp.clip_epsilon,\n"
        "            hp.entropy_coefficient, p.embedding_dim, list(p.hypernet_hidden_sizes), args.run.num_seeds]\n"
        "print(json.dumps(found))\n"
    )
    found = json.loads(run("-c", script).splitlines()[-1])
    assert len(found) == 16
    assert found["algos.hypermarl_ippo 2s3z"] == [5, "hyper_mlp", True, 0.004, 0.05, 0.01, 4, [32], 5]
    assert found["algos.hypermarl_ippo smacv2_10_units"] == [10, "hyper_mlp", True, 0.005, 0.05, 0.01, 4, [64], 5]
    assert found["algos.hypermarl_mappo 3s5z"] == [8, "hyper_mlp", True, 0.0003, 0.2, 0.0, 64, [16], 5]
    assert found["baselines.ippo smacv2_10_units"][:6] == [10, "fups", True, 0.001, 0.05, 0.01]
    assert found["baselines.mappo 3s5z"][:6] == [8, "fups", True, 0.002, 0.2, 0.0]
