"""docs/offline_data.md: its program runs, and its table is the container's."""

import re
from pathlib import Path

from covey.data import load
from covey.data.dataset import LEAVES

TEXT = (Path(__file__).parents[3] / "docs/offline_data.md").read_text()


def test_the_program_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(program, "docs/offline_data.md", "exec"), {"__name__": "docs"})
    assert capsys.readouterr().out == "(32, 21, 3, 10) (32, 21)\n"
    assert load("navigation").num_transitions == 2400  # as the text's table says


def test_the_table_lists_every_array():
    rows = re.findall(r"^\| `(\w+)` \| (\w+)\[([A-Z, ]+)\] \|", TEXT, re.MULTILINE)
    assert {name: (dtype, axes.replace(", ", "")) for name, dtype, axes in rows} == LEAVES
