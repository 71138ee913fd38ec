"""JaxMARL's own conformity tests, unchanged, on this package's environments.

They are part of JaxMARL's source distribution, not of the installed package, so pip fetches that of the installed
version. Without a package index these tests fail: they must not pass by looking at nothing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import tarfile
from types import ModuleType

import jax
import jax.numpy as jnp
import pytest

import envs_jax
from envs_jax.base import State
from envs_jax.compat.jaxmarl import install, uninstall
from envs_jax.mamujoco import ALIASES, IDS

# All of MuJoCo's ids are one class, and their tests run one step at a time, uncompiled: the cheapest robot.
CHECKED = [env_id for env_id in envs_jax.registered() if env_id not in IDS | ALIASES or env_id == "mamujoco/reacher"]
# Their test of auto-reset runs an episode of several steps into its time limit, which one-step games do not have.
TIMED = [env_id for env_id in CHECKED if (envs_jax.make(env_id).max_steps or 1) > 1]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The folder `tests` of JaxMARL's source distribution."""
    folder = tmp_path_factory.mktemp("jaxmarl")
    version = importlib.metadata.version("jaxmarl")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "jaxmarl"]
    done = subprocess.run([*command, f"jaxmarl=={version}", "--dest", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"JaxMARL {version}'s source distribution, which holds its tests, cannot be fetched: {done.stderr}")
    with tarfile.open(folder / f"jaxmarl-{version}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / f"jaxmarl-{version}" / "tests"


@pytest.fixture
def load(sources):
    """`load(name)` runs one of JaxMARL's test files while our environments are installed."""
    install()

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"jaxmarl_{name}", sources / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    uninstall()


@pytest.mark.parametrize("env_id", CHECKED)
def test_base_api(load, env_id):
    load("test_envs_implement_base_api").test_envs(env_id)


@pytest.mark.parametrize("env_id", TIMED)
def test_auto_reset_to_a_given_state(load, env_id, monkeypatch):
    module = load("test_jaxmarl_api")
    env = module.make(env_id)

    def positions(state: State) -> jax.Array:
        leaves = jax.tree.leaves(state.replace(done=jnp.zeros(0), step=jnp.zeros(0)))
        return jnp.concatenate([jnp.ravel(leaf).astype(jnp.float32) for leaf in leaves])

    # their test names one of MPE's environments, and tells its states apart by MPE's `p_pos`
    monkeypatch.setattr(module, "make", lambda _: env)
    monkeypatch.setattr(State, "p_pos", property(positions), raising=False)
    module.test_auto_reset_to_specific_state()
