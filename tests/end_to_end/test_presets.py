"""Every preset of every program, as far as a run goes before it compiles."""

from importlib import import_module
from pathlib import Path

import pytest

from covey.experiment import cli

ROOT = Path(__file__).parents[2]
PROGRAMS = [
    str(path.relative_to(ROOT))
    for folder in ("algos", "baselines")
    for path in sorted((ROOT / folder).glob("*.py"))
    if "__main__" in path.read_text()
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_settings_of_every_preset_fit_together(program):
    presets = import_module(program.removesuffix(".py").replace("/", ".")).PRESETS
    for preset, scales in presets.items():
        for scale in scales:
            try:
                planned = cli.plan(ROOT / program, [preset, "--preset-scale", scale])
                assert planned.description["args"].env.num_agents >= 2, (preset, scale)
            except ValueError as error:  # its dataset, which others have to make first, and nothing else
                assert str(error).startswith("dataset is "), (preset, scale)
