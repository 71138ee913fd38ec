"""Records trajectories of the real VMAS, which `tests/envs_jax/test_particles.py` compares the JAX ports with.

Run it in an environment of its own (`pip install torch vmas`), from the repository's root:

    python tests/parity/make_vmas_fixture.py

It writes `tests/parity/vmas_trajectories.npz`. Per case `<name>`, for B environments, N agents and T steps:

    <name>/config      JSON: the environment's id and its keyword arguments, in Covey's names
    <name>/actions     [T, B, N] int8 for discrete actions, else [T, B, N, 2] int8 in units of 1/64
    <name>/position    float32[T + 1, B, N, 2], from the start state on
    <name>/velocity    float32[T + 1, B, N, 2]
    <name>/target      float32[B, F or N, 2], the food, or each agent's goal
    <name>/obs         float32[ceil((T + 1) / obs_every), B, N, O], every `obs_every`-th step from the start state on
    <name>/reward      float32[T, B, N]
    <name>/done        bool[T, B]

Environment 0 of a case acts at random, ten steps at a time, so that agents get as far as the walls. In the
others each agent steers to a target (food that is left, or its goal), so that food is eaten, alone and together, and
goals are reached. No episode is reset: VMAS goes on after its end.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from vmas import make_env

STEPS = 105
ENVS = 2
OBS_EVERY = 15
OUTPUT = Path(__file__).with_name("vmas_trajectories.npz")

# In Covey's names, which are VMAS's but for `num_agents`, `num_food`.
CASES = {
    "dispersion_discrete": ("dispersion", {"num_agents": 4}),
    "dispersion_discrete_shared": ("dispersion", {"num_agents": 4, "share_reward": True}),
    "dispersion_continuous": ("dispersion", {"num_agents": 4, "continuous_actions": True, "penalise_by_time": True}),
    "dispersion_continuous_shared": (
        "dispersion",
        {
            "num_agents": 4,
            "continuous_actions": True,
            "share_reward": True,
            "penalise_by_time": True,
            "num_food": 3,
            "food_radius": 0.08,
            "pos_range": 0.6,
        },
    ),
    "dispersion_eight": ("dispersion", {"num_agents": 8}),
    "navigation_two": ("navigation", {"num_agents": 2, "observe_all_goals": False}),
    "navigation_two_same_shared": ("navigation", {"num_agents": 2, "agents_with_same_goal": 2, "shared_rew": True}),
    "navigation_four": ("navigation", {"num_agents": 4, "shared_rew": True}),
    "navigation_four_same_discrete": (
        "navigation",
        {"num_agents": 4, "agents_with_same_goal": 4, "continuous_actions": False, "observe_all_goals": False},
    ),
    "navigation_four_split_bounded": (
        "navigation",
        {
            "num_agents": 4,
            "agents_with_same_goal": 2,
            "split_goals": True,
            "enforce_bounds": True,
            "world_spawning_x": 0.8,
            "pos_shaping_factor": 2.0,
            "final_reward": 0.5,
        },
    ),
    "navigation_eight_half": ("navigation", {"num_agents": 8, "agents_with_same_goal": 4}),
    "navigation_collisions": ("navigation", {"num_agents": 4, "collisions": True}),
    "navigation_collisions_shared": (
        "navigation",
        {
            "num_agents": 4,
            "collisions": True,
            "shared_rew": True,
            "observe_all_goals": False,
            "n_lidar_rays": 7,
            "agent_collision_penalty": -0.5,
        },
    ),
}
# Where Covey's defaults are not VMAS's.
DEFAULTS = {
    "dispersion": {"continuous_actions": False},
    "navigation": {"continuous_actions": True, "observe_all_goals": True, "shared_rew": False, "collisions": False},
}


def make(env_id: str, config: dict, seed: int):
    """VMAS's environment for Covey's settings, with one environment more than is recorded if agents collide."""
    kwargs = DEFAULTS[env_id] | config
    renamed = {"num_agents": "n_agents", "num_food": "n_food"}
    kwargs = {renamed.get(name, name): value for name, value in kwargs.items()}
    extra = 1 if config.get("collisions") else 0
    return make_env(scenario=env_id, num_envs=ENVS + extra, device="cpu", seed=seed, **kwargs)


def stack(values: list[torch.Tensor]) -> np.ndarray:
    """Per agent [B, ...] -> [B, N, ...]; the extra environment is left out."""
    return torch.stack(values, dim=1).numpy()[:ENVS].copy()


def positions(env) -> np.ndarray:
    return stack([agent.state.pos for agent in env.agents])


def velocities(env) -> np.ndarray:
    return stack([agent.state.vel for agent in env.agents])


def targets(env, env_id: str) -> np.ndarray:
    if env_id == "navigation":
        return stack([agent.goal.state.pos for agent in env.agents])
    return stack([food.state.pos for food in env.world.landmarks])


def wanted(env, env_id: str, step: int, crowd: bool) -> np.ndarray:
    """Where each agent should go now, [B, N, 2]."""
    place, target = positions(env), targets(env, env_id)
    if crowd and step < STEPS // 2:  # everyone to the middle, to collide
        return np.broadcast_to(place.mean(axis=1, keepdims=True), place.shape)
    if env_id == "navigation":
        return target
    eaten = stack([food.eaten for food in env.world.landmarks])
    distance = np.linalg.norm(target[:, None] - place[:, :, None], axis=-1) + 9 * eaten[:, None]
    # Agents 0 and 1 go for the nearest item together; the others each begin at their own place in the order.
    order = distance.argsort(axis=-1)
    left = np.maximum((~eaten).sum(axis=-1), 1)
    choice = np.stack([order[:, i][range(ENVS), max(i - 1, 0) % left] for i in range(place.shape[1])], axis=1)
    return np.take_along_axis(target, choice[..., None], axis=1)


def choose_actions(env, env_id: str, config: dict, step: int, seed: int) -> np.ndarray:
    """Actions as they are stored: environment 0 at random, the others towards their targets."""
    rng = np.random.default_rng((seed, step // 10))
    n = len(env.agents)
    steer = 4 * (wanted(env, env_id, step, config.get("collisions", False)) - positions(env)) - 2.5 * velocities(env)
    if (DEFAULTS[env_id] | config)["continuous_actions"]:
        actions = np.rint(64 * np.clip(steer, -1, 1))
        actions[0] = rng.integers(-64, 65, (n, 2))
    else:
        axis = np.where(steer > 0.1, 2, np.where(steer < -0.1, 1, 0))
        actions = 3 * axis[..., 0] + axis[..., 1]
        actions[0] = rng.integers(0, 9, n)
    return actions.astype(np.int8)


def overlay_extra(env) -> None:
    """Put all agents of the extra environment on one point.

    VMAS counts near collisions of a pair only if that pair touches in any environment of the batch. This makes it so
    at every step, and agents on the same point exert no force on each other, so they stay there.
    """
    for agent in env.agents:
        agent.set_pos(torch.zeros(2), batch_index=ENVS)
        agent.set_vel(torch.zeros(2), batch_index=ENVS)


def record(env_id: str, config: dict, seed: int) -> dict[str, np.ndarray]:
    env = make(env_id, config, seed)
    rng = np.random.default_rng(seed)
    start = rng.uniform(-0.5, 0.5, (len(env.agents), env.num_envs, 2))  # in motion: drag matters from the first step on
    if env_id == "dispersion":
        start[1] = start[0]  # so that these two stay together, and eat the same item at the same step
    for agent, velocity in zip(env.agents, start, strict=True):
        agent.set_vel(torch.tensor(velocity, dtype=torch.float32), batch_index=None)
    obs = [stack(env.get_from_scenario(True, False, False, False)[0])]
    record: dict[str, list] = {name: [] for name in ("actions", "reward", "done")}
    place, speed = [positions(env)], [velocities(env)]
    for step in range(STEPS):
        actions = choose_actions(env, env_id, config, step, seed)
        extra = env.num_envs - ENVS
        if extra:
            overlay_extra(env)
        full = np.concatenate([actions, np.zeros((extra, *actions.shape[1:]), np.int8)]).astype(np.float32)
        if actions.ndim == 3:
            full /= 64
        observations, rewards, dones, _ = env.step(
            [torch.from_numpy(full[:, i].copy()) for i in range(len(env.agents))]
        )
        place.append(positions(env))
        speed.append(velocities(env))
        obs.append(stack(observations))
        record["actions"].append(actions)
        record["reward"].append(stack(rewards))
        record["done"].append(dones.numpy()[:ENVS].copy())
    return {
        "config": np.array(json.dumps({"id": env_id} | config)),
        "position": np.stack(place),
        "velocity": np.stack(speed),
        "target": targets(env, env_id),
        "obs": np.stack(obs[::OBS_EVERY]),
        **{name: np.stack(values) for name, values in record.items()},
    }


def main() -> None:
    arrays = {
        "versions": np.array(f"vmas {version('vmas')}, torch {version('torch')}"),
        "obs_every": np.array(OBS_EVERY),
    }
    for seed, (name, (env_id, config)) in enumerate(CASES.items()):
        case = record(env_id, config, seed)
        arrays |= {f"{name}/{key}": value for key, value in case.items()}
        first = [int(d.argmax()) if d.any() else None for d in case["done"].T]
        print(f"{name:32s} first done {first}  rewards' sum {case['reward'].sum((0, 2)).round(2)}")
    np.savez_compressed(OUTPUT, **arrays)
    print(f"{OUTPUT.name}: {OUTPUT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
