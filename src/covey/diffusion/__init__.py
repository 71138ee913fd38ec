"""Diffusion models of joint trajectories, guided by the joint policy. See `docs/coda.md`."""

from covey.diffusion.coda import Coda, CodaConfig, CodaHyperparameters, Hyperparameters
from covey.diffusion.edm import EDMConfig
from covey.diffusion.generator import FitHyperparameters, Generator, GeneratorConfig
from covey.diffusion.normaliser import Normaliser
from covey.diffusion.segments import Layout, OfflineData, Segment, from_arrays, offline_data
from covey.diffusion.unet import UNetConfig

__all__ = [
    "Coda",
    "CodaConfig",
    "CodaHyperparameters",
    "EDMConfig",
    "FitHyperparameters",
    "Generator",
    "GeneratorConfig",
    "Hyperparameters",
    "Layout",
    "Normaliser",
    "OfflineData",
    "Segment",
    "UNetConfig",
    "from_arrays",
    "offline_data",
]
