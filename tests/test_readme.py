"""The README's (and two pages') Python examples run, and its links and commands name things that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = "".join((ROOT / "docs" / page).read_text() for page in ("social_dilemmas.md", "social_rewards.md"))


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README + PAGES, re.DOTALL))
def test_examples_run(block):
    exec(compile(block, "README.md", "exec"), {})


def test_links_and_programs_exist():
    for path in re.findall(r"\]\(([^)h][^)]*)\)", README) + re.findall(r"python (\w+/\w+\.py)", README):
        assert (ROOT / path).exists(), path


def test_table_lists_what_is_registered():
    import envs_jax

    for name in envs_jax.registered():
        assert f"`{name}`" in README, name
