"""The compiled program: what it computes does not depend on seeds, chunks, batches or devices."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import Walk, Walker

from covey.experiment import Program, make_train, seed_keys
from covey.experiment.checkpoint import to_arrays
from covey.experiment.program import evaluation_schedule

LEARNER = Walker(Walk(3))
HP = {"learning_rate": 0.05, "explode_at": 1e9}


def arrays(state, metrics):
    return to_arrays(state) | {f"metric {k}": np.asarray(v) for k, v in metrics.items()}


@pytest.fixture(scope="module")
def reference():
    """Seven updates of eight seeds in one call."""
    return jax.jit(make_train(LEARNER, num_updates=7, num_evaluations=3))(seed_keys(0, 8), HP)


def test_metrics_have_updates_and_seeds_in_front(reference):
    state, metrics = reference
    assert int(state.update) == 7
    assert metrics["train/loss"].shape == (7, 8)
    assert metrics["train/episode_return"].shape == (7, 8, 3)
    assert metrics["eval/episode_return"].shape == (7, 8, 3)
    assert metrics["finite"].dtype == bool and bool(metrics["finite"].all())


@pytest.mark.parametrize(
    ("updates", "evaluations", "expected"),
    [(10, 5, [2, 4, 6, 8, 10]), (7, 3, [2, 4, 7]), (3, 20, [1, 2, 3]), (5, 1, [5])],
)
def test_schedule_is_even_and_ends_with_the_last_update(updates, evaluations, expected):
    assert evaluation_schedule(updates, evaluations).tolist() == expected


def test_evaluation_happens_at_the_schedule_only(reference):
    evaluated = np.isfinite(reference[1]["eval/episode_return"]).all(axis=(1, 2))
    assert (np.flatnonzero(evaluated) + 1).tolist() == [2, 4, 7]


def test_every_evaluation_and_seed_plays_the_same_episodes():
    still = make_train(replace(LEARNER, noise=replace(LEARNER.noise, scale=0.0)), num_updates=4, num_evaluations=4)
    state, metrics = jax.jit(still)(seed_keys(0, 5), HP | {"learning_rate": 0.0})
    returns = np.asarray(metrics["eval/episode_return"])
    assert (returns == returns[:1]).all()
    # Without the part that depends on the policy, what is left comes from the episodes' starts.
    starts = returns[0] + np.abs(np.asarray(state.carries["params"]["layer"]["position"]) - 3.0)
    np.testing.assert_allclose(starts, np.broadcast_to(starts[:1], starts.shape), atol=1e-5)


def test_a_seed_among_many_equals_the_seed_alone(reference):
    state, metrics = jax.jit(make_train(LEARNER, num_updates=7, num_evaluations=3))(seed_keys(5, 1), HP)
    many, alone = arrays(*reference), arrays(state, metrics)
    for name, value in alone.items():
        if name != "update":
            theirs = many[name][:, 5:6] if name.startswith("metric") else many[name][5:6]
            np.testing.assert_allclose(value, theirs, rtol=1e-5, atol=1e-6, err_msg=name)


def test_seed_keys_are_those_of_the_seeds():
    np.testing.assert_array_equal(jax.random.key_data(seed_keys(40, 3))[2], jax.random.key_data(jax.random.key(42)))


def test_hyper_parameters_map_with_the_seeds(reference):
    rates = np.linspace(0.0, 0.05, 8, dtype=np.float32)
    train = jax.jit(make_train(LEARNER, num_updates=7, num_evaluations=3))
    state, _ = train(seed_keys(0, 8), HP | {"learning_rate": rates})
    position, theirs = (np.asarray(s.carries["params"]["layer"]["position"]) for s in (state, reference[0]))
    np.testing.assert_allclose(position[7], theirs[7], rtol=1e-6)
    assert not np.allclose(position[0], theirs[0])
    with pytest.raises(ValueError, match=r"learning_rate has shape \(3,\).*8 values"):
        train(seed_keys(0, 8), HP | {"learning_rate": rates[:3]})


@pytest.mark.parametrize("cuts", [[1] * 7, [3, 3, 1]])
def test_one_compilation_serves_all_chunks_with_bitwise_equal_results(cuts):
    program = Program(LEARNER, 7, 3)
    advance = jax.jit(program.advance, static_argnames="length", donate_argnums=0)
    whole, expected = advance(jax.jit(program.init)(seed_keys(0, 8), HP), jnp.int32(7), length=7)

    state, rows = jax.jit(program.init)(seed_keys(0, 8), HP), []
    before = advance._cache_size()
    for num in cuts:
        state, metrics = advance(state, jnp.int32(num), length=max(cuts))
        rows.append({name: np.asarray(x)[:num] for name, x in metrics.items()})
    assert advance._cache_size() == before + 1
    joined = {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}
    for name, value in arrays(whole, expected).items():
        np.testing.assert_array_equal(value, arrays(state, joined)[name], err_msg=name)


@pytest.mark.parametrize("batch", [2, 8])
def test_seeds_in_batches_give_the_same_results(reference, batch):
    train = make_train(LEARNER, num_updates=7, num_evaluations=3, seeds_per_batch=batch)
    for name, value in arrays(*jax.jit(train)(seed_keys(0, 8), HP)).items():
        np.testing.assert_allclose(value, arrays(*reference)[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_batches_that_do_not_divide_the_seeds_are_refused():
    with pytest.raises(ValueError, match="seeds_per_batch is 3; allowed: a divisor of the 8 .*: 1, 2, 4, 8"):
        jax.eval_shape(Program(LEARNER, 7, seeds_per_batch=3).init, seed_keys(0, 8), HP)


@dataclass(frozen=True)
class Hoarder(Walker):
    """Keeps a buffer [rows, 512] per seed (a replay buffer, say) and needs 4 MiB per seed while it updates."""

    rows: int = 64

    def init(self, key, hp):
        return super().init(key, hp) | {"buffer": jnp.zeros((self.rows, 512))}

    def update(self, carry, data=None):
        work = jnp.sort(jax.random.normal(carry["key"], (2048, 512)), axis=0)  # XLA cannot fuse a sort away
        return super().update(carry | {"buffer": carry["buffer"].at[3].set(work.max(axis=0))})


def test_batches_bound_memory_and_never_copy_all_buffers():
    def temporary(rows, batch):
        program = Program(Hoarder(Walk(3), rows=rows), 2, seeds_per_batch=batch)
        state = jax.eval_shape(program.init, seed_keys(0, 16), HP)
        advance = jax.jit(partial(program.advance, length=2), donate_argnums=0)
        memory = advance.lower(state, jnp.int32(0)).compile().memory_analysis()
        assert memory.alias_size_in_bytes >= 16 * rows * 512 * 4  # the state is updated where it is
        return memory.temp_size_in_bytes / 2**20

    assert temporary(64, batch=2) < temporary(64, batch=None) / 6
    # 16 buffers take 62 MiB more now; only those in hand, 2 of them, may be held again (as read and as written).
    assert temporary(2048, batch=2) - temporary(64, batch=2) < 0.3 * 62


def test_the_program_branches_on_evaluation_and_never_calls_the_host():
    program = Program(LEARNER, 7, 3)
    state = program.init(seed_keys(0, 2), HP)
    lowered = jax.jit(program.advance, static_argnames="length").lower(state, jnp.int32(1), length=7)
    text = lowered.compile().as_text()
    assert " while(" in text
    assert " conditional(" in text
    assert "callback" not in text + lowered.as_text()


COMPARE_DEVICES = """
import sys, jax, numpy as np
from toy import Walk, Walker
from covey.experiment import make_train, seed_keys
from covey.experiment.checkpoint import to_arrays
from covey.experiment.program import seed_mesh

assert jax.local_device_count() == 8
hp = {"learning_rate": np.linspace(0.01, 0.1, 16, dtype=np.float32), "explode_at": 1e9}
results = []
for mesh in (seed_mesh(16), None):
    state, metrics = jax.jit(make_train(Walker(Walk(3)), 5, 2, mesh=mesh))(seed_keys(0, 16), hp)
    if mesh:
        assert len(metrics["train/loss"].sharding.device_set) == 8
    results.append(to_arrays(state) | to_arrays(metrics))
for name, value in results[0].items():
    np.testing.assert_array_equal(value, results[1][name], err_msg=name)
assert [m.size if (m := seed_mesh(n)) else 1 for n in (8, 12, 7, 5, 1, 64)] == [8, 6, 7, 5, 1, 8]
print("equal")
"""


def test_eight_devices_give_bitwise_the_results_of_one():
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]),
    }
    done = subprocess.run([sys.executable, "-c", COMPARE_DEVICES], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "equal", done.stderr


def test_importing_starts_no_backend_and_loads_nothing_heavy():
    code = """
import sys, covey.experiment, covey.experiment.cli, covey.experiment.compare
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
heavy = {"orbax", "matplotlib", "PIL", "tyro", "scipy", "safetensors", "envs_jax"} & set(sys.modules)
assert not heavy - {"scipy"}, heavy  # JAX itself imports scipy
"""
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0
