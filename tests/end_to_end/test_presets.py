"""Every preset of HyperMARL's programs and its baselines, as far as a run goes before it compiles."""

from importlib import import_module
from pathlib import Path

import pytest

from covey.experiment import cli

ROOT = Path(__file__).parents[2]
PROGRAMS = (
    "algos/hypermarl_ippo.py",
    "algos/hypermarl_mappo.py",
    "algos/hypermarl_matd3.py",
    "baselines/ippo.py",
    "baselines/mappo.py",
    "baselines/happo.py",
    "baselines/dico.py",
    "baselines/seps.py",
    "baselines/matd3.py",
    "baselines/kaleidoscope.py",
)


@pytest.mark.parametrize("program", PROGRAMS)
def test_settings_of_every_preset_fit_together(program):
    presets = import_module(program.removesuffix(".py").replace("/", ".")).PRESETS
    for preset, scales in presets.items():
        for scale in scales:
            planned = cli.plan(ROOT / program, [preset, "--preset-scale", scale])
            assert planned.learner.env.num_agents >= 2, (preset, scale)
