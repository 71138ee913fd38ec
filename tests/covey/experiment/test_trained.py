"""Trained learners, back from a run's folder."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import toy

from covey.experiment import RunError, cli, load_run

SCRIPT = Path(toy.__file__)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    flags = ["--num-seeds", "3", "--scale", "0.2", "--total-steps", "60", "--num-evaluations", "2"]
    return toy.main(["walk", *flags, "--run-dir", str(path), "--quiet"])


def test_a_run_comes_back_as_it_was(finished):
    back = load_run(finished.folder, SCRIPT)
    assert back.update == 6 and back.data is None
    assert repr(back.learner) == repr(toy.Walker(toy.Walk(3), toy.Noise(0.2)))
    assert repr(back).startswith("TrainedRun(learner=Walker(") and len(repr(back)) < 1000  # No arrays.
    same = jax.tree.map(lambda a, b: np.array_equal(*map(raw, (a, b))), back.carries, finished.state.carries)
    assert jax.tree.all(same)
    key = jax.random.fold_in(jax.random.key(0), 2**31 - 1)  # that of every evaluation
    again = jax.jit(jax.vmap(back.learner.evaluate, (0, None)))(back.carries, key)
    np.testing.assert_allclose(again["episode_return"], finished.metrics["eval/episode_return"][-1], rtol=1e-6)


def raw(x):
    return jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def test_the_record_knows_the_program(finished, tmp_path):
    planned = cli.plan(SCRIPT, ["walk", "--run-dir", "nowhere"])
    assert planned.description["script"] == str(SCRIPT) and planned.config.num_seeds == 4
    path = shutil.copytree(finished.folder, tmp_path / "run")
    record = json.loads((path / "config.json").read_text())
    assert record["script"] == record["command"][1]  # pytest, which called `main`
    (path / "config.json").write_text(json.dumps(record | {"script": str(SCRIPT)}))
    assert load_run(path).update == 6
    (path / "config.json").write_text(json.dumps(record | {"script": "gone.py"}))
    with pytest.raises(RunError, match=r"is a run of gone\.py, which is not here; call from its checkout"):
        load_run(path)


def test_what_is_no_run_says_so(tmp_path, finished):
    with pytest.raises(RunError, match="holds no run"):
        load_run(tmp_path, SCRIPT)
    (tmp_path / "config.json").write_bytes((finished.folder / "config.json").read_bytes())
    with pytest.raises(RunError, match="has no checkpoint yet"):
        load_run(tmp_path, SCRIPT)


def test_plan_says_what_is_wrong_with_a_command_line(tmp_path):
    with pytest.raises(ValueError, match=r"there is no program .*none\.py"):
        cli.plan(tmp_path / "none.py", [])
    with pytest.raises(ValueError, match=r"^num_agents is 0; allowed"):
        cli.plan(SCRIPT, ["walk", "--env.num-agents", "0"])
    (tmp_path / "idle.py").write_text("pass")
    with pytest.raises(ValueError, match=r"idle\.py runs nothing through covey\.experiment\.cli"):
        cli.plan(tmp_path / "idle.py", [])
