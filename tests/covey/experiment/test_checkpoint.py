"""Checkpoints: exact, atomic, and aware of damage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covey.experiment import checkpoint
from covey.experiment.checkpoint import RunError, from_arrays, to_arrays


def tree(value=1.0):
    return {
        "params": {"kernel": jnp.full((4, 3), value, jnp.float32), "half": jnp.full(3, value, jnp.bfloat16)},
        "keys": jax.random.split(jax.random.key(3), 4),
        "other generator": jax.random.key(3, impl="rbg"),
        "count": jnp.int32(7),
        "empty": (jnp.zeros((4, 0)), jnp.array([True, False])),
    }


def template():
    return jax.eval_shape(tree)


def assert_same(a, b):
    a, b = to_arrays(a), to_arrays(b)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


def largest_file(folder):
    return max((p for p in (folder / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_every_kind_of_leaf_survives(tmp_path):
    checkpoint.save(tmp_path, 10, tree())
    loaded = checkpoint.load(tmp_path, template())
    assert_same(loaded, tree())
    for name in ("keys", "other generator"):
        assert loaded[name].dtype == tree()[name].dtype
    np.testing.assert_array_equal(jax.random.normal(loaded["keys"][2]), jax.random.normal(tree()["keys"][2]))


def test_the_newest_two_stay(tmp_path):
    for update in (5, 10, 100, 20000):
        checkpoint.save(tmp_path, update, tree(update))
    assert checkpoint.found(tmp_path) == [100, 20000]
    assert_same(checkpoint.load(tmp_path, template()), tree(20000))


def test_none_yet(tmp_path):
    assert checkpoint.load(tmp_path / "nothing", template()) is None


def test_a_save_that_was_cut_short_does_not_count(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 10, tree(1))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_digests", lambda folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            checkpoint.save(tmp_path, 20, tree(2))
    assert_same(checkpoint.load(tmp_path, template()), tree(1))
    checkpoint.save(tmp_path, 20, tree(2))
    assert_same(checkpoint.load(tmp_path, template()), tree(2))


def damage_byte(folder):
    path = largest_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def truncate(folder):
    path = largest_file(folder)
    path.write_bytes(path.read_bytes()[:-1])
    return path


def remove_file(folder):
    path = largest_file(folder)
    path.unlink()
    return path


def remove_sums(folder):
    path = folder / "sha256sums"
    path.unlink()
    return path


@pytest.mark.parametrize("harm", [damage_byte, truncate, remove_file, remove_sums])
def test_damage_is_named_with_a_way_out_and_nothing_is_deleted(tmp_path, harm):
    for update in (10, 20):
        checkpoint.save(tmp_path, update, tree(update))
    harmed = harm(tmp_path / "00000020")
    files = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunError) as error:
        checkpoint.load(tmp_path, template())
    message = str(error.value)
    assert str(harmed) in message and "\n" not in message
    assert f"delete {tmp_path / '00000020'} to resume from it" in message and str(tmp_path / "00000010") in message
    assert sorted(tmp_path.rglob("*")) == files

    harm(tmp_path / "00000010")
    with pytest.raises(RunError, match="no earlier checkpoint is intact: start a new run"):
        checkpoint.load(tmp_path, template())


def test_another_programs_checkpoint_is_refused(tmp_path):
    checkpoint.save(tmp_path, 10, tree())
    other = template() | {"params": {"kernel": jax.ShapeDtypeStruct((5, 3), jnp.float32)}}
    with pytest.raises(
        RunError, match=r"params,kernel should be float32\[5, 3\] but the checkpoint has float32\[4, 3\]"
    ):
        checkpoint.load(tmp_path, other)
    with pytest.raises(ValueError, match="keys .* has nothing"):
        from_arrays({}, {"keys": template()["keys"]})
