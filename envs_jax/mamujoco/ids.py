"""What is registered: `mamujoco/<robot>_<partition>`, `mamujoco/<robot>`, and the names of JaxMARL's MABrax."""

from __future__ import annotations

from typing import Any

NAMED: dict[str, tuple[str, ...]] = {
    "halfcheetah": ("2x3", "6x1"),
    "ant": ("2x4", "2x4d", "4x2", "8x1"),
    "hopper": ("3x1",),
    "walker2d": ("2x3",),
    "swimmer": ("2x1",),
    "humanoid": ("9|8", "17x1"),
    "humanoidstandup": ("9|8", "17x1"),
    "reacher": ("2x1",),
    "invertedpendulum": ("1x1",),
    "inverteddoublependulum": ("1x1",),
    "coupledhalfcheetah": ("1p1",),
    "manysegmentswimmer": ("10x2", "5x4", "6x1", "2x1"),
    "manysegmentant": ("2x3", "3x1"),
}
"""Robots, and the factorisations with an id of their own; the first is the robot's default."""

_SETTINGS: dict[str, dict[str, Any]] = {
    "reacher": {"max_steps": 50},
    "invertedpendulum": {"obsk": None},
    "inverteddoublependulum": {"obsk": None},
}
# The names that MaMuJoCo's first version and its users know them by.
_OTHER_NAMES = {"manyagentswimmer": "manysegmentswimmer", "manyagentant": "manysegmentant"}


def _all() -> dict[str, dict[str, Any]]:
    ids = {}
    for name, robot in {**{robot: robot for robot in NAMED}, **_OTHER_NAMES}.items():
        for partition in NAMED[robot]:
            ids[f"mamujoco/{name}_{partition}"] = {"robot": robot, "partition": partition, **_SETTINGS.get(robot, {})}
        ids[f"mamujoco/{name}"] = ids[f"mamujoco/{name}_{NAMED[robot][0]}"]
    return ids


IDS = _all()
"""Settings of each id."""
ALIASES = {
    name: IDS[f"mamujoco/{name}"]
    for name in ("ant_4x2", "halfcheetah_6x1", "hopper_3x1", "humanoid_9|8", "walker2d_2x3")
}
"""MABrax's names. The robots are MuJoCo's, with MaMuJoCo's observations and rewards, not Brax's."""
