"""Physics presets: `faithful`, which matches C MuJoCo, and `fast`, which is a different, coarser physics."""

from __future__ import annotations

from dataclasses import dataclass

INTEGRATORS = ("euler", "midpoint", "rk4", "implicitfast")


@dataclass(frozen=True)
class Physics:
    """How a robot is simulated. The solver is always MJX's Newton with pyramidal cones.

    The line search has a fixed number of steps in MJX, so `ls_iterations` is what costs most.
    """

    integrator: str = "euler"
    """"euler", "midpoint" (Runge-Kutta with two stages, which C MuJoCo has not: twice the work), "rk4" (four times the
    work) or "implicitfast"."""
    iterations: int = 4
    """Most Newton iterations per solve."""
    ls_iterations: int = 8
    """Line-search steps per Newton iteration."""
    max_contact_points: int | None = None
    """How many contacts, the deepest first, are solved (per kind of friction); None for all pairs that may touch."""
    eulerdamp: bool = True
    """Whether "euler" treats joint damping implicitly. Without, HalfCheetah is another robot."""
    floor_only: bool = False
    """Whether only contacts with the floor count, and not those among the robot's own parts."""
    substeps: int = 1
    """Physics steps in the place of each of the robot's own, so many times shorter."""

    def __post_init__(self) -> None:
        if self.integrator not in INTEGRATORS:
            raise ValueError(f"integrator is '{self.integrator}'; allowed: {', '.join(INTEGRATORS)}")
        for name in ("iterations", "ls_iterations", "substeps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: an integer of at least 1")
        if self.max_contact_points is not None and self.max_contact_points < 1:
            raise ValueError(f"max_contact_points is {self.max_contact_points}; allowed: at least 1, or None")


FAITHFUL: dict[str, Physics] = {
    "halfcheetah": Physics(max_contact_points=6),
    "coupledhalfcheetah": Physics(max_contact_points=12),
    "ant": Physics("rk4", 6, 8, max_contact_points=8),
    "manysegmentant": Physics("rk4", 6, 8, max_contact_points=16),
    "hopper": Physics("rk4"),
    "walker2d": Physics("rk4"),
    "swimmer": Physics("rk4"),
    "manysegmentswimmer": Physics("rk4"),
    "humanoid": Physics("rk4", 6, 8, max_contact_points=16),
    "humanoidstandup": Physics("rk4", 6, 8, max_contact_points=16),
    "reacher": Physics("rk4"),
    "invertedpendulum": Physics("rk4"),
    "inverteddoublependulum": Physics("rk4"),
}
FAST: dict[str, Physics] = {
    "halfcheetah": Physics("euler", 3, 4, max_contact_points=6),
    "coupledhalfcheetah": Physics("euler", 4, 8, max_contact_points=12),
    # Under whole steps of Euler's 66 % of random gaits fall over; under halves 45 %, as under `faithful`.
    "ant": Physics("euler", 2, 3, max_contact_points=8, substeps=2),
    "manysegmentant": Physics("euler", 4, 4, max_contact_points=12),
    # With Euler's steps single hoppers lose 10 % of their return, and walkers gain or lose 40 %.
    "hopper": Physics("midpoint", 2, 4, max_contact_points=4, floor_only=True),
    "walker2d": Physics("midpoint", 3, 4, max_contact_points=4),
    "swimmer": Physics("euler", 1, 4),
    "manysegmentswimmer": Physics("euler", 1, 4),
    "humanoid": Physics("euler", 2, 4, max_contact_points=8, floor_only=True),
    "humanoidstandup": Physics("euler", 2, 4, max_contact_points=12, floor_only=True),
    "reacher": Physics("euler", 1, 4),
    "invertedpendulum": Physics("euler", 1, 4),
    "inverteddoublependulum": Physics("euler", 1, 4),
}
PRESETS = {"faithful": FAITHFUL, "fast": FAST}


def resolve(physics: str | Physics, robot: str) -> Physics:
    """The options of a preset for a robot; raises ValueError on an unknown preset."""
    if isinstance(physics, Physics):
        return physics
    if physics not in PRESETS:
        raise ValueError(f"physics is '{physics}'; allowed: {', '.join(PRESETS)}, or a Physics(...)")
    return PRESETS[physics][robot]
