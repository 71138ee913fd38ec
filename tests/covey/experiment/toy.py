"""A training program without reinforcement learning, in the shape of those in `algos/`: numbers walk to a target.

Run by the tests as a command. "Agents" are the numbers; a seed's carry holds everything that real learners' carries
do: a random key, parameters twice (as a target network would), hyper-parameters, an array without elements.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from covey.experiment import RunConfig, checkpoint, cli


@dataclass(frozen=True)
class BaseEnv:
    num_agents: int
    """Number of agents that walk."""

    def __post_init__(self):
        if self.num_agents < 1:
            raise ValueError(f"num_agents is {self.num_agents}; allowed: an integer of at least 1")


@dataclass(frozen=True)
class Walk(BaseEnv):
    """A target to walk to."""

    target: float = 3.0
    """Where the agents should be, in metres."""

    def render(self, state):
        if self.target > 100:
            raise NotImplementedError("Walk has no render")
        frame = np.full((24, 32, 3), 255, np.uint8)
        for i, x in enumerate(np.asarray(state["position"])):
            frame[4 * i : 4 * i + 3, int(np.clip(x * 5, 0, 28)) :, i % 3] = 40
        return frame


@dataclass(frozen=True)
class Hp:
    """Numeric settings."""

    learning_rate: float = 0.05
    """Step size, as a fraction of the distance."""
    explode_at: float = 1e9
    """Distance beyond which the numbers overflow, in metres."""


@dataclass(frozen=True)
class Noise:
    """How the walk is disturbed."""

    scale: float = 0.1
    """Standard deviation, in metres."""


@dataclass(frozen=True)
class Args:
    env: BaseEnv
    noise: Noise = Noise()
    hp: Hp = field(default_factory=Hp)
    run: RunConfig = RunConfig(total_steps=1200, num_seeds=4, num_evaluations=6, chunks=6)


@dataclass(frozen=True)
class Walker:
    env: BaseEnv
    noise: Noise = Noise()

    @property
    def steps_per_update(self) -> int:
        return 10

    def init(self, key: jax.Array, hp: Any) -> Any:
        key_start, key = jax.random.split(key)
        position = jax.random.normal(key_start, (self.env.num_agents,))
        params = {"layer": {"position": position}}
        return {
            "params": params,
            "target": params,
            "key": key,
            "hp": hp,
            "lr": hp["learning_rate"],
            "none": jnp.zeros(0),
        }

    def update(self, carry: Any, data: Any = None) -> tuple[Any, dict[str, jax.Array]]:
        key, key_noise = jax.random.split(carry["key"])
        position = carry["params"]["layer"]["position"]
        noise = self.noise.scale * jax.random.normal(key_noise, position.shape)
        position = position + carry["lr"] * (self.env.target - position) + 0.1 * noise
        position = position * jnp.where(jnp.abs(position).max() > carry["hp"]["explode_at"], jnp.nan, 1.0)
        episode_return = jnp.where(noise[0] > 0, -jnp.abs(position - self.env.target), jnp.nan)
        params = {"layer": {"position": position}}
        metrics = {"loss": jnp.sum((position - self.env.target) ** 2), "episode_return": episode_return}
        return carry | {"key": key, "params": params}, metrics

    def evaluate(self, carry: Any, key: jax.Array) -> dict[str, jax.Array]:
        start = jax.random.normal(key, (self.env.num_agents,))
        return {"episode_return": 0.01 * start - jnp.abs(carry["params"]["layer"]["position"] - self.env.target)}

    def policy(self, carry: Any) -> Any:
        return carry["params"]

    def episode(self, carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        times = jnp.arange(30)
        position = carry["params"]["layer"]["position"]
        return {"position": times[:, None] / 20 * position, "key": jax.random.split(key, 30)}, times < 20


HP_VALUES = {"learning_rate": 0.05, "explode_at": 1e9}


def build(args: Args):
    if args.env.num_agents > 6:
        raise ValueError(f"num_agents is {args.env.num_agents}; allowed: at most 6\n(there are six colours)")
    hp = {"learning_rate": args.hp.learning_rate, "explode_at": args.hp.explode_at}
    return Walker(args.env, args.noise), hp


PRESETS = {
    "walk": {
        "paper": Args(Walk(3)),
        "small": Args(Walk(2), run=RunConfig(total_steps=100, num_evaluations=2, chunks=2)),
    },
    "far": {"paper": Args(Walk(3, target=1000.0))},
}


def main(argv: list[str] | None = None):
    return cli.main("toy", __doc__, PRESETS, build, lambda name: Args(Walk(2, target=1.0)), ["plain_walk"], argv)


def slow_down() -> None:
    """Say what was saved and wait, to give a test the time to stop this program between two chunks."""
    save = checkpoint.save

    def slow_save(folder, update, state):
        save(folder, update, state)
        print("SAVED", update, flush=True)
        time.sleep(0.3)

    checkpoint.save = slow_save


if __name__ == "__main__":
    if "TOY_SLOW" in os.environ:
        slow_down()
    main()
