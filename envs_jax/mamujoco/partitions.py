"""Who drives which actuators: named factorisations, segment counts, and any partition of one's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

from envs_jax.mamujoco.graph import JointGraph
from envs_jax.mamujoco.ids import NAMED

Partition: TypeAlias = str | tuple[tuple[int | str, ...], ...]

# Actuators of each agent, in the order in which its action lists them (which is not that of its observation).
_LEGS = ((2, 3), (4, 5), (6, 7), (0, 1))  # Ant's actuators start with its fourth leg.
_TABLE: dict[tuple[str, str], tuple[tuple[int, ...], ...]] = {
    ("halfcheetah", "2x3"): ((0, 1, 2), (3, 4, 5)),
    ("ant", "2x4"): (_LEGS[0] + _LEGS[1], _LEGS[2] + _LEGS[3]),
    ("ant", "2x4d"): (_LEGS[0] + _LEGS[3], _LEGS[1] + _LEGS[2]),
    ("ant", "4x2"): _LEGS,
    ("ant", "8x1"): tuple((a,) for leg in _LEGS for a in leg),
    ("walker2d", "2x3"): ((2, 1, 0), (5, 4, 3)),
    ("humanoid", "9|8"): ((2, 0, 1, 11, 12, 13, 14, 15, 16), (3, 5, 4, 6, 7, 9, 8, 10)),
    ("coupledhalfcheetah", "1p1"): (tuple(range(6)), tuple(range(6, 12))),
}
_TABLE["humanoidstandup", "9|8"] = _TABLE["humanoid", "9|8"]
_ONE_EACH = {
    ("halfcheetah", "6x1"),
    ("hopper", "3x1"),
    ("swimmer", "2x1"),
    ("reacher", "2x1"),
    ("humanoid", "17x1"),
    ("humanoidstandup", "17x1"),
    ("invertedpendulum", "1x1"),
    ("inverteddoublependulum", "1x1"),
}
_PER_SEGMENT = {"manysegmentswimmer": 1, "manysegmentant": 4}
"""Actuators per segment of the robots with any number of segments."""


def segments(robot: str, partition: Partition, given: int | None) -> int:
    """How many segments a robot has, 0 where that makes no sense. A name like "10x2" says it: 10 agents of 2 each."""
    if robot not in _PER_SEGMENT:
        if given is not None:
            raise ValueError(f"segments is {given}; allowed: None, for only {' and '.join(_PER_SEGMENT)} have segments")
        return 0
    if isinstance(partition, str):
        count = _agents_by_segments(robot, partition)
        total = count[0] * count[1]
        if given not in (None, total):
            raise ValueError(f"segments is {given}; allowed: {total}, which partition '{partition}' makes, or None")
        return total
    if given is None or given < 1:
        raise ValueError(f"segments is {given}; allowed: an integer of at least 1, as partition is not a name")
    return given


def resolve(robot: str, partition: Partition, graph: JointGraph) -> tuple[tuple[int, ...], ...]:
    """The actuators of each agent.

    Raises ValueError on an unknown name, and on a partition that misses or repeats an actuator, or holds an agent
    without one.
    """
    count = len(graph.joints)
    if isinstance(partition, str):
        if robot in _PER_SEGMENT:
            agents, each = _agents_by_segments(robot, partition)
            each *= _PER_SEGMENT[robot]
            return tuple(tuple(range(i * each, (i + 1) * each)) for i in range(agents))
        if partition == "single":
            return (tuple(range(count)),)
        if (robot, partition) in _ONE_EACH:
            return tuple((a,) for a in range(count))
        if (robot, partition) not in _TABLE:
            raise ValueError(
                f"partition is '{partition}'; allowed for {robot}: {', '.join(NAMED[robot])}, single (one agent), or"
                " the actuators of each agent, as numbers or joints' names"
            )
        return _TABLE[robot, partition]
    names = [joint.name for joint in graph.joints]
    parts = tuple(tuple(_actuator(item, names) for item in part) for part in partition)
    used = [a for part in parts for a in part]
    if not parts or not all(parts):
        raise ValueError(f"partition is {partition}; allowed: at least one actuator for each agent")
    repeated = sorted({a for a in used if used.count(a) > 1})
    if repeated:
        raise ValueError(f"partition is {partition}; allowed: each actuator once, but {_say(repeated, names)} repeat")
    missing = sorted(set(range(count)) - set(used))
    if missing:
        raise ValueError(
            f"partition is {partition}; allowed: each actuator once, but {_say(missing, names)} are missing"
        )
    return parts


def freeze(partition: Partition | Sequence[Sequence[int | str]]) -> Partition:
    """Lists as tuples, so that an environment that holds them can be hashed."""
    return partition if isinstance(partition, str) else tuple(tuple(part) for part in partition)


def _agents_by_segments(robot: str, partition: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", partition)
    if not match:
        raise ValueError(f"partition is '{partition}'; allowed for {robot}: AxS for A agents of S segments, as in 10x2")
    return int(match[1]), int(match[2])


def _actuator(item: int | str, names: list[str]) -> int:
    if isinstance(item, str) and item in names:
        return names.index(item)
    if isinstance(item, int) and not isinstance(item, bool) and 0 <= item < len(names):
        return item
    raise ValueError(f"partition holds {item!r}; allowed: 0 to {len(names) - 1}, or {', '.join(names)}")


def _say(actuators: list[int], names: list[str]) -> str:
    return ", ".join(f"{a} ({names[a]})" for a in actuators)
