"""Records transitions and observations of Gymnasium-Robotics' MaMuJoCo for `test_robots_parity.py`.

Run it in an environment of its own, from the repository's root:

    pip install gymnasium-robotics==1.4.2 mujoco==3.17.0 && python tests/parity/make_mamujoco_fixture.py
    python tests/parity/make_mamujoco_fixture.py fine
    pip install mujoco==3.5.0 && python tests/parity/make_mamujoco_fixture.py coupledhalfcheetah

CoupledHalfCheetah needs the last line, for upstream's does not run with MuJoCo 3.6 and later. They write
`tests/parity/mamujoco.npz`, `mamujoco_fine.npz` (two transitions of one agent per joint, as HARL has it, and of other
numbers of segments, in float32) and `mamujoco_coupled.npz`. Per robot `<r>` (v5, else `<r>@v4`), for M transitions:

    <r>/action                 float64[M, nu], beyond the actuators' range at times
    <r>/before/<name>          float64[M, ...], qpos, qvel, warmstart, and the derived numbers of `physics.derive`
    <r>/after/<name>           float64[M, ...], after the step
    <r>/reward, <r>/terminated float64[M], bool[M]
    <r>/state                  float64[M, G], Gymnasium's observation after the step
    <r>/<partition>/<k>/<i>    float64[M, O], what agent i sees after the step, for k = 0, 1, 2
    <r>/<partition>/drives     int[nu], where each actuator's action is among the agents' actions in a row
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium_robotics import mamujoco_v1
from gymnasium_robotics.envs.multiagent_mujoco.obsk import get_parts_and_edges

FOLDER = Path(__file__).parent
TRANSITIONS = 12
CASES = {
    "halfcheetah": ("HalfCheetah", ("2x3", "6x1")),
    "ant": ("Ant", ("2x4", "2x4d", "4x2")),
    "hopper": ("Hopper", ("3x1",)),
    "walker2d": ("Walker2d", ("2x3",)),
    "swimmer": ("Swimmer", ("2x1",)),
    "humanoid": ("Humanoid", ("9|8",)),
    "humanoidstandup": ("HumanoidStandup", ("9|8",)),
    "reacher": ("Reacher", ("2x1",)),
    "invertedpendulum": ("InvertedPendulum", ()),
    "inverteddoublependulum": ("InvertedDoublePendulum", ()),
    "manysegmentswimmer": ("ManySegmentSwimmer", ("10x2",)),
    "manysegmentant": ("ManySegmentAnt", ("2x2",)),
}
FINE = (
    ("ant", "Ant", "4x2", "8x1"),
    ("humanoid", "Humanoid", "9|8", "17x1"),
    ("humanoidstandup", "HumanoidStandup", "9|8", "17x1"),
)
"""Robot, scenario, the named partition that the joints are from, and our name."""


def blocks(env: Any) -> dict[str, np.ndarray]:
    """The numbers of `envs_jax.mamujoco.physics` that the robot has."""
    data, model = env.data, env.model
    names = [model.body(i).name for i in range(model.nbody)]
    out = {name: getattr(data, name) for name in ("qpos", "qvel")} | {"warmstart": data.qacc_warmstart}
    out |= {"torso": data.xpos[1], "com": (model.body_mass @ data.xipos / model.body_mass.sum())[:2]}
    out |= {name: getattr(data, name) for name in ("cinert", "cvel", "cfrc_ext", "qfrc_actuator", "qfrc_constraint")}
    if "fingertip" in names:
        out["tip"] = data.body("fingertip").xpos - data.body("target").xpos
    if model.nsite:
        out["site"] = data.site_xpos[0]
    if model.ntendon and data.ten_J.ndim == 2:
        out |= {"ten_J": data.ten_J[0], "ten_length": data.ten_length, "ten_velocity": data.ten_velocity}
    return {name: np.array(value, np.float64) for name, value in out.items()}


def transitions(base: Any, watch: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Steps of `base` from states of random rollouts; `watch` adds what else to record after each."""
    records: list[dict[str, np.ndarray]] = []
    for i in range(TRANSITIONS):
        base.reset(seed=i)
        high = base.action_space.high
        for _ in range(1 + 4 * i if i % 3 else 1):
            base.step(rng.uniform(-high, high))
        if i == TRANSITIONS - 1:  # upside down or far off: what is not healthy ends, what must be clipped is
            qpos, qvel = base.data.qpos.copy(), base.data.qvel.copy()
            qpos[1 if len(qpos) < 12 else 2] += 3.0
            base.set_state(qpos, qvel + 12.0)
        action = rng.uniform(-1.4 * high, 1.4 * high)
        record = {"action": action} | {f"before/{name}": value for name, value in blocks(base).items()}
        _, reward, terminated, *_ = base.step(action)
        record |= {f"after/{name}": value for name, value in blocks(base).items()}
        record |= {"reward": np.array(reward), "terminated": np.array(terminated), "state": base._get_obs()}
        records.append(record | watch(base))
    return {name: np.stack([record[name] for record in records]) for name in records[0]}


def record(
    name: str, scenario: str, partitions: tuple[str, ...], factorization: dict[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """One robot with its partitions, or with a factorisation of one's own."""
    rng = np.random.default_rng(0)
    envs = {
        (p, k): mamujoco_v1.parallel_env(scenario, p, agent_obsk=k, agent_factorization=factorization)
        for p in partitions
        for k in (0, 1, 2)
    }
    out: dict[str, np.ndarray] = {}
    for partition in partitions:
        env = envs[partition, 0]
        sizes = [env.action_spaces[agent].shape[0] for agent in env.possible_agents]
        numbers = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
        actions = dict(zip(env.possible_agents, numbers, strict=True))
        out[f"{partition}/drives"] = env.map_local_actions_to_global_action(actions).astype(int)

    def watch(base: Any) -> dict[str, np.ndarray]:
        seen = {}
        for (partition, k), env in envs.items():
            env.single_agent_env.unwrapped.data = base.data
            for i in range(len(env.possible_agents)):
                seen[f"{partition}/{k}/{i}"] = env._get_obs_agent(i)
        return seen

    if partitions:
        base = envs[partitions[0], 0].single_agent_env.unwrapped
    else:
        base = gymnasium.make(f"{scenario}-v5").unwrapped
    out |= transitions(base, watch, rng)
    return {f"{name}/{key}": value for key, value in out.items()}


def one_agent_per_joint(scenario: str, partition: str) -> dict[str, Any]:
    """A factorisation for `parallel_env`: a named one's joints in its order or, of uneven parts, the model's."""
    parts, edges, shared = get_parts_and_edges(scenario, partition)
    nodes = [node for part in parts for node in part]
    if len({len(part) for part in parts}) > 1:
        nodes.sort(key=lambda node: node.act_ids)
    return {"partition": [(node,) for node in nodes], "edges": edges, "globals": shared}


def fine() -> dict[str, np.ndarray]:
    """Partitions that upstream does not name, and ones that need a robot of their own."""
    out: dict[str, np.ndarray] = {}
    for name, scenario, coarse, partition in FINE:
        rows = record(name, scenario, (partition,), one_agent_per_joint(scenario, coarse))
        out |= {key: value for key, value in rows.items() if f"/{partition}/" in key or "/after/" in key}
    for partition in ("5x4", "6x1", "2x1"):
        rows = record("manysegmentswimmer", "ManySegmentSwimmer", (partition,))
        rows = {key.replace("swimmer/", f"swimmer={partition}/", 1): value for key, value in rows.items()}
        out |= {key: value for key, value in rows.items() if f"/{partition}/" in key or "/after/" in key}
    return {k: v if v.dtype == int else v[[0, 2]].astype(np.float32) for k, v in out.items()}


def main() -> None:
    coupled = sys.argv[1:] == ["coupledhalfcheetah"]
    out: dict[str, np.ndarray] = {}
    if sys.argv[1:] == ["fine"]:
        write(FOLDER / "mamujoco_fine.npz", fine())
        return
    if coupled:
        out |= record("coupledhalfcheetah", "CoupledHalfCheetah", ("1p1",))
    else:
        for name, (scenario, partitions) in CASES.items():
            out |= record(name, scenario, partitions)
            if not scenario.startswith("Many"):
                base = gymnasium.make(f"{scenario}-v4").unwrapped
                old = transitions(base, lambda _: {}, np.random.default_rng(1))
                out |= {f"{name}@v4/{key}": value for key, value in old.items()}
    write(FOLDER / ("mamujoco_coupled.npz" if coupled else "mamujoco.npz"), out)


def write(path: Path, out: dict[str, np.ndarray]) -> None:
    keep = {"cinert", "cvel", "qfrc_actuator"}  # only a humanoid's rules use these, and they are large
    out = {k: v for k, v in out.items() if "humanoid" in k or k.split("/")[-1] not in keep}
    versions = {package: version(package) for package in ("gymnasium", "gymnasium-robotics", "mujoco")}
    np.savez_compressed(path, versions=np.array(json.dumps(versions)), **out)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB, {len(out)} arrays")


if __name__ == "__main__":
    main()
