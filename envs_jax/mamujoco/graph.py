"""Which joints are neighbours, computed from a model's body tree.

A joint hangs from its anchor: the nearest body above it that has an actuated joint, or branches, or is the first body
of its tree. Bodies in between are rigid links. Neighbours are

* joints of one body,
* joints and those of the body that they hang from,
* joints that hang from the same body without a joint of its own (a torso), and those that hang from the next such body
  above it (the segments of ManySegmentAnt).

A `hub` (the three abdominal joints of a humanoid) counts as one joint, and at the torso that it hangs from, others are
neighbours of the hub instead of each other. That gives the graphs which MaMuJoCo writes down by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any


@dataclass(frozen=True)
class Joint:
    """An actuated joint.

    name: the joint's name in the model, by which joints are sorted.
    actuator, qpos, qvel: its indices among the actuators and in `qpos` and `qvel`.
    bodies: the bodies that are seen by whoever sees the joint.
    """

    name: str
    actuator: int
    qpos: int
    qvel: int
    bodies: tuple[int, ...]


@dataclass(frozen=True)
class JointGraph:
    """Actuated joints, in the order of their actuators, and the pairs of neighbours among them."""

    joints: tuple[Joint, ...]
    edges: frozenset[tuple[int, int]]

    def levels(self, own: Sequence[int], hops: int) -> list[list[Joint]]:
        """The joints that are first reached after 0, 1, ... `hops` hops from `own`; each level sorted by name."""
        level, seen = set(own), set(own)
        found = [level]
        for _ in range(hops):
            level = {b for a, b in self.edges if a in level} - seen
            seen |= level
            found.append(level)
        return [sorted((self.joints[i] for i in level), key=lambda joint: joint.name) for level in found]


def joint_graph(model: Any, hub: Sequence[str] = ()) -> JointGraph:
    """The graph of a `mujoco.MjModel` whose actuators each drive one joint."""
    driven = [int(model.actuator_trnid[a, 0]) for a in range(model.nu)]
    body_of = {j: int(model.jnt_bodyid[j]) for j in driven}
    parent = [int(p) for p in model.body_parentid]
    children = [[b for b in range(1, model.nbody) if parent[b] == p] for p in range(model.nbody)]
    joints_of = {b: [a for a, j in enumerate(driven) if body_of[j] == b] for b in range(model.nbody)}

    def anchor(body: int) -> tuple[int, tuple[int, ...]]:
        """What a body hangs from (0 for nothing), and the rigid links in between, from the top."""
        links: list[int] = []
        above = parent[body]
        while above and not joints_of[above] and len(children[above]) < 2 and parent[above]:
            links.insert(0, above)
            above = parent[above]
        return above, tuple(links)

    pairs: set[tuple[int, int]] = set()

    def connect(some: Sequence[int], others: Sequence[int]) -> None:
        pairs.update((a, b) for a, b in product(some, others) if a != b)
        pairs.update((b, a) for a, b in product(some, others) if a != b)

    at_hub = [a for a, j in enumerate(driven) if model.joint(j).name in hub]
    connect(at_hub, at_hub)
    hanging: dict[int, list[int]] = {}
    for body, own in joints_of.items():
        if not own:
            continue
        connect(own, own)
        above, _ = anchor(body)
        if above and joints_of[above]:
            connect(own, at_hub if set(joints_of[above]) & set(at_hub) else joints_of[above])
        elif above:
            hanging[above] = hanging.get(above, []) + own
    for body, own in hanging.items():
        if set(own) & set(at_hub):
            connect(own, at_hub)
        else:
            connect(own, own)
        above, _ = anchor(body)
        connect(own, hanging.get(above, joints_of[above] if above else []))

    def bodies(body: int) -> tuple[int, ...]:
        """A joint shows its body and what hangs from that, and the torso if it hangs from one. At a limb that starts
        with a rigid link (Ant's) the inner joint shows torso and link, and the next one the whole limb."""
        above, links = anchor(body)
        if links:
            return (above, *links)
        if above and joints_of[above]:
            upper_links = anchor(above)[1]
            inner = (*upper_links, above) if upper_links else ()
            return (*inner, body, *children[body])
        return ((above,) if above else ()) + (body, *children[body])

    joints = tuple(
        Joint(
            name=model.joint(j).name,
            actuator=a,
            qpos=int(model.jnt_qposadr[j]),
            qvel=int(model.jnt_dofadr[j]),
            bodies=bodies(body_of[j]),
        )
        for a, j in enumerate(driven)
    )
    return JointGraph(joints, frozenset(pairs))
