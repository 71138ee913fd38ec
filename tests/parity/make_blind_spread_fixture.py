"""Records trajectories of the authors' blind particle spread, which `tests/envs_jax/test_blind_spread.py` follows.

    git clone https://github.com/semitable/PettingZoo
    python tests/parity/make_blind_spread_fixture.py PettingZoo

It needs only NumPy: of their package it runs the world, the scenario and the environment around them, and stands in
for what these import of `gym` and of PettingZoo's wrappers. It writes `tests/parity/blind_spread_trajectories.npz`.
Per case `<name>`, for N agents, G groups and T steps:

    <name>/groups      int8[G]; <name>/shuffle_obs bool[]
    <name>/actions     int8[T, N], each held for five steps
    <name>/landmark    float32[G, 2]
    <name>/position    float32[T + 1, N, 2], from the start state on; <name>/velocity likewise
    <name>/obs         float32[ceil((T + 1) / 10), N, O], every tenth step from the start state on
    <name>/reward      float32[T, N]
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np

STEPS = 50
OBS_EVERY = 10
OUTPUT = Path(__file__).with_name("blind_spread_trajectories.npz")
CASES = {
    "v1": {"groups": [5, 5, 5]},
    "v3": {"groups": [6, 6, 6, 6, 6]},
    "v4": {"groups": [3, 3, 3, 12, 9]},
    "v5": {"groups": [5, 5, 5], "shuffle_obs": True},
}


def load(checkout: Path) -> tuple[type, type]:
    """Their environment and scenario, imported without PettingZoo's and gym's own start-up."""
    anything = types.SimpleNamespace
    stand_ins = {
        "gym": {"spaces": anything(Discrete=lambda n: n, Box=lambda **settings: settings)},
        "gym.utils": {"seeding": anything(np_random=lambda seed: (np.random.RandomState(seed), seed))},
        "pettingzoo": {"AECEnv": object, "__path__": [str(checkout / "pettingzoo")]},
        "pettingzoo.utils": {"wrappers": anything(), "__path__": [str(checkout / "pettingzoo/utils")]},
        "pettingzoo.mpe": {"__path__": [str(checkout / "pettingzoo/mpe")]},
    }
    for name, contents in stand_ins.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(contents)
    from pettingzoo.mpe._mpe_utils.simple_env import SimpleEnv  # pyright: ignore
    from pettingzoo.mpe.scenarios.large_spread import Scenario  # pyright: ignore

    return SimpleEnv, Scenario


def main() -> None:
    environment, scenario_class = load(Path(sys.argv[1]))
    rng = np.random.default_rng(0)
    out: dict[str, np.ndarray] = {"obs_every": np.array(OBS_EVERY)}
    for number, (name, settings) in enumerate(CASES.items()):
        scenario = scenario_class()
        env = environment(scenario, scenario.make_world(**settings), max_frames=100, local_ratio=0.5)
        env.seed(number)
        env.reset(observe=False)
        agents, landmarks = env.world.agents, env.world.landmarks
        actions = rng.integers(0, 5, (STEPS // 5, len(agents))).repeat(5, axis=0)
        record: dict[str, list] = {"position": [], "velocity": [], "obs": [], "reward": []}
        for t in range(STEPS + 1):
            record["position"].append([agent.state.p_pos.copy() for agent in agents])
            record["velocity"].append([agent.state.p_vel.copy() for agent in agents])
            if t % OBS_EVERY == 0:
                record["obs"].append([env.observe(agent.name) for agent in agents])
            if t < STEPS:
                for action in actions[t]:  # One agent after the other; the world moves after the last.
                    env.step(action, observe=False)
                record["reward"].append([env.rewards[agent.name] for agent in agents])
        out |= {f"{name}/{key}": np.array(value, np.float32) for key, value in record.items()}
        out[f"{name}/groups"] = np.array(settings["groups"], np.int8)
        out[f"{name}/shuffle_obs"] = np.array("shuffle_obs" in settings)
        out[f"{name}/actions"] = actions.astype(np.int8)
        out[f"{name}/landmark"] = np.array([landmark.state.p_pos for landmark in landmarks], np.float32)
    np.savez_compressed(OUTPUT, **out)  # pyright: ignore


if __name__ == "__main__":
    main()
