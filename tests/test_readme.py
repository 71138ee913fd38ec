"""The README's (and one page's) Python examples run, and its links and commands name things that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DILEMMAS = (ROOT / "docs/social_dilemmas.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README + DILEMMAS, re.DOTALL))
def test_examples_run(block):
    exec(compile(block, "README.md", "exec"), {})


def test_links_and_programs_exist():
    for path in re.findall(r"\]\(([^)h][^)]*)\)", README) + re.findall(r"python (\w+/\w+\.py)", README):
        assert (ROOT / path).exists(), path


def test_table_lists_what_is_registered():
    import envs_jax

    for name in envs_jax.registered():
        assert f"`{name}`" in README, name
