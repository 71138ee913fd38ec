"""The README's (and two pages') Python examples run, and its links and commands name things that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = "".join((ROOT / "docs" / page).read_text() for page in ("social_dilemmas.md", "social_rewards.md", "coda.md"))


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README + PAGES, re.DOTALL))
def test_examples_run(block):
    exec(compile(block, "README.md", "exec"), {})


def test_links_and_programs_exist():
    for path in re.findall(r"\]\(([^)h][^)]*)\)", README) + re.findall(r"python (\w+/\w+\.py)", README):
        assert (ROOT / path).exists(), path


def test_table_lists_what_is_registered():
    import envs_jax
    from envs_jax.mamujoco import IDS
    from envs_jax.mamujoco.ids import NAMED

    readme = README.replace("\\|", "|")  # as a table shows it
    for name in set(envs_jax.registered()) - set(IDS):
        assert f"`{name}`" in readme, name
    # One row for all robots: it names each robot and each of its partitions.
    row = re.search(r"^\| `mamujoco/<robot>_<partition>`.*$", readme, re.MULTILINE)
    assert row is not None
    for robot, partitions in NAMED.items():
        named = re.search(rf"`{robot}` \(([^)]*)\)", row[0])
        assert named is not None and named[1].split(", ") == list(partitions), robot
