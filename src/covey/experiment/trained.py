"""Trained learners, back from a run's folder: to evaluate them elsewhere, to film them, to look inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax

from covey.experiment import checkpoint, cli, folder
from covey.experiment.checkpoint import RunError
from covey.experiment.program import Program, seed_keys


class TrainedRun(NamedTuple):
    """What a run has come to.

    learner: as the program built it (see `covey.learners.base.Learner`), with its environment, `learner.env`.
    carries: its carry after the last chunk, leading axis S, for `jax.vmap(learner.evaluate, (0, None))(carries, key)`,
        `learner.episode`, `learner.policy`.
    data: arrays that all seeds share (an offline dataset), or None.
    update: how many updates of the run are done.
    """

    learner: Any
    carries: Any
    data: Any
    update: int

    def __repr__(self) -> str:
        """Without the numbers, of which there are millions."""
        arrays = jax.tree.leaves(self.carries)
        return (
            f"TrainedRun(learner={self.learner!r}, carries=<{len(arrays)} arrays of {len(arrays[0])} seeds>,"
            f" data={'None' if self.data is None else '<arrays>'}, update={self.update})"
        )


def load_run(path: Path | str, script: Path | str | None = None) -> TrainedRun:
    """A run, finished or under way, of a program of `covey.experiment.cli`.

    path: its folder. script: the program; by default the one that made the run, where it was then as seen from the
    working directory (so from the checkout).

    Raises RunError if there is no run or no checkpoint, if it is damaged, or was made by a program that is not there
    or has other shapes by now; ValueError if the program no longer takes the run's command line.
    """
    path = Path(path)
    record = folder.read_config(path)
    script = Path(script or record.get("script") or record["command"][1])
    if not script.is_file():
        raise RunError(f"{path} is a run of {script}, which is not here; call from its checkout, or name it")
    planned = cli.plan(script, ["--resume", str(path)])
    program = Program(planned.learner, num_updates=1)
    template = jax.eval_shape(program.init, seed_keys(planned.config.seed, planned.config.num_seeds), planned.hp)
    state = checkpoint.load(path / "checkpoints", template)
    if state is None:
        raise RunError(f"{path} has no checkpoint yet")
    return TrainedRun(planned.learner, state.carries, planned.data, int(state.update))
