"""Running other projects' scripts from a checkout, beside ours."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def no_logging() -> None:
    """Puts nothing in the place of what training scripts log to and read settings with: wandb, hydra and omegaconf."""
    for name in ("wandb", "hydra", "omegaconf"):
        sys.modules.setdefault(name, ModuleType(name))
    sys.modules["wandb"].log = lambda *_, **__: None  # type: ignore[attr-defined]
    sys.modules["hydra"].main = lambda **_: lambda function: function  # type: ignore[attr-defined]
    sys.modules["omegaconf"].OmegaConf = None  # type: ignore[attr-defined]


def load_file(name: str, file: Path) -> ModuleType:
    """A module from its file, called `name`: by its own name another one could be found in its place."""
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module
