"""Running experiments: the compiled program over seeds, its run folder, statistics, figures and command line."""

from covey.experiment.checkpoint import RunError
from covey.experiment.program import Program, State, make_train, seed_keys
from covey.experiment.runner import RunConfig, RunResult, run
from covey.experiment.trained import TrainedRun, load_run

__all__ = [
    "Program",
    "RunConfig",
    "RunError",
    "RunResult",
    "State",
    "TrainedRun",
    "load_run",
    "make_train",
    "run",
    "seed_keys",
]
