"""Running experiments: the compiled program over seeds, its run folder, statistics, figures and command line."""

from covey.experiment.checkpoint import RunError
from covey.experiment.program import Program, State, make_train, seed_keys
from covey.experiment.runner import RunConfig, RunResult, run

__all__ = ["Program", "RunConfig", "RunError", "RunResult", "State", "make_train", "run", "seed_keys"]
