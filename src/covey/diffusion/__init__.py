"""Diffusion models of joint trajectories, guided by the joint policy. See `docs/coda.md`."""

from covey.diffusion.coda import Coda, CodaConfig, CodaData, CodaHyperparameters, Hyperparameters
from covey.diffusion.edm import EDMConfig
from covey.diffusion.generator import FitHyperparameters, Generator, GeneratorConfig
from covey.diffusion.normaliser import Normaliser
from covey.diffusion.segments import DiffusedData, Fields, Layout, diffuse, diffused_data, from_arrays
from covey.diffusion.unet import UNetConfig

__all__ = [
    "Coda", "CodaConfig", "CodaData", "CodaHyperparameters", "DiffusedData", "EDMConfig", "Fields",
    "FitHyperparameters", "Generator", "GeneratorConfig", "Hyperparameters", "Layout", "Normaliser", "UNetConfig",
    "diffuse", "diffused_data", "from_arrays",
]  # fmt: skip
