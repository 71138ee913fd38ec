"""The house rules that a machine can hold: who imports whom, what the wheel holds, no callback in a program."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import envs_jax
from covey.experiment import Program, seed_keys
from covey.learners.ppo import PPO, PPOConfig, PPOHyperparameters
from covey.policies import PolicyConfig

ROOT = Path(__file__).parents[1]


def imported(path: Path, everywhere: bool = True) -> set[str]:
    """First names of the packages that a file imports; only those at the top level, unless everywhere."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if everywhere else tree.body
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_dependencies_point_one_way():
    for path in (ROOT / "envs_jax").rglob("*.py"):
        assert not imported(path) & {"covey", "flax", "optax", "algos", "baselines"}, path
        assert "jaxmarl" not in imported(path, everywhere=False), path
    for path in (ROOT / "src/covey").rglob("*.py"):
        assert not imported(path) & {"envs_jax", "algos", "baselines"}, path


def test_wheel_holds_exactly_the_two_packages():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert config["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["envs_jax", "src/covey"]


@pytest.mark.parametrize(
    "module",
    ["envs_jax", "covey.data", "covey.diffusion", "covey.experiment", "covey.learners.ppo", "algos.hypermarl_ippo"],
)
def test_importing_does_nothing(module):
    """No backend, no output, none of the heavy packages."""
    script = (
        f"import sys, {module}\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, 'a backend was started'\n"
        "heavy = {'jaxmarl', 'matplotlib', 'orbax', 'PIL', 'mujoco', 'h5py', 'tensorstore'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0 and done.stdout == "", done.stderr + done.stdout


def test_training_program_never_calls_the_host_and_evaluates_conditionally():
    env = envs_jax.make("specialisation", max_steps=4)
    config = PPOConfig(num_envs=2, num_steps=4, num_minibatches=1, update_epochs=1, eval_episodes=1)
    learner = PPO(env, PolicyConfig(hidden_sizes=(4,), hypernet_hidden_sizes=(4,)), config)
    program = Program(learner, 4, 2)
    state = jax.eval_shape(program.init, seed_keys(0, 2), PPOHyperparameters())
    text = jax.jit(lambda s, n: program.advance(s, n, length=4)).lower(state, jnp.int32(4)).compile().as_text()
    targets = re.findall(r'custom_call_target="([^"]*)"', text)  # Not the whole text: it holds this test's name, too.
    assert not [target for target in targets if "callback" in target or "python" in target]
    assert "conditional" in text and "while" in text
