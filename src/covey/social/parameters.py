"""The numbers of social rewards, apart from their static switches, so that changing them compiles nothing anew."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

PerAgent: TypeAlias = float | tuple[float, ...]
"""One number for all agents, or a tuple of N. Each entry of a tuple is a scalar leaf of its own, so that what maps
scalar hyper-parameters over seeds or sweeps maps these, too."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SocialParameters:
    """A social reward's numbers; a method reads those of its equations (see `covey.social.reward`).

    Outside of a learner's hyper-parameters, per-agent ones may also be arrays [N].
    Raises ValueError for a value out of range (and `check` for a tuple of the wrong length).
    """

    alpha: PerAgent = 0.0
    """Envy: cost of having less than others (disadvantageous inequity)."""
    beta: PerAgent = 0.0
    """Guilt: cost of having more than others (advantageous inequity)."""
    orientation_weight: PerAgent = 0.0
    """Cost per degree, or radian, between an agent's reward angle and its target, w."""
    target_angle: PerAgent = 45.0
    """Reward angle that an agent prefers, theta*, in degrees: 0 selfish, 45 equal, 90 altruistic."""
    agent_weights: PerAgent = 1.0
    """Factor of each agent's whole social term, w_i."""
    discount: float = 0.99
    """gamma in the decay gamma lambda of smoothed rewards, per step."""
    smoothing: float = 0.9
    """lambda in the decay gamma lambda of smoothed rewards; 0: rewards are not smoothed."""
    reward_low: PerAgent = 0.0
    """Lowest lasting reward per step: analytic bounds begin at reward_low / (1 - gamma lambda)."""
    reward_high: PerAgent = 1.0
    """Highest lasting reward per step: analytic bounds end at reward_high / (1 - gamma lambda)."""
    warmup_steps: float = 10_000.0
    """Steps of an environment after which bounds are fixed, where normalisation is by warm-up."""
    age_discount: float = 1.0
    """Factor per step of age of what an agent knows of another; 1: age does not matter, as in the paper."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, value := tuple(value))
            numbers = _concrete(value)
            if numbers is None:  # Traced, or anything else that JAX puts in place of numbers.
                continue
            low, high = _RANGES[field.name]
            if not np.all((numbers >= low) & (numbers <= high) & np.isfinite(numbers)):
                allowed = f"in [{low:g}, {high:g}]" if high < np.inf else "finite"
                if high == np.inf and low > -np.inf:
                    allowed = f"of at least {low:g}"
                raise ValueError(f"{field.name} is {value}; allowed: numbers {allowed}")
        low, high = _concrete(self.reward_low), _concrete(self.reward_high)
        if low is None or high is None or (low.size != high.size and 1 not in (low.size, high.size)):
            return
        if not np.all(low < high):
            raise ValueError(f"reward_high is {self.reward_high}; allowed: above reward_low, {self.reward_low}")

    @property
    def decay(self) -> Any:
        """gamma lambda, by which smoothed rewards decay per step."""
        return self.discount * self.smoothing

    def check(self, num_agents: int) -> None:
        """Raise ValueError unless every per-agent value is one number or `num_agents` of them."""
        for field in dataclasses.fields(self):
            self.per_agent(field.name, num_agents)

    def per_agent(self, name: str, num_agents: int) -> jax.Array:
        """The field `name` as float32 [] or [num_agents]. Raises ValueError if it has another length."""
        value = getattr(self, name)
        if isinstance(value, tuple):
            shape = (len(value),)
            value = jnp.stack([jnp.asarray(number, jnp.float32) for number in value]) if value else jnp.zeros(0)
        else:
            value = jnp.asarray(value, jnp.float32)
            shape = value.shape
        allowed = [()] if name in _SCALARS else [(), (num_agents,)]
        if shape not in allowed:
            count = "one number" if name in _SCALARS else f"one number, or one for each of {num_agents} agents"
            raise ValueError(f"{name} is {getattr(self, name)}, of shape {shape}; allowed: {count}")
        return value


_SCALARS = ("discount", "smoothing", "warmup_steps", "age_discount")
_RANGES: dict[str, tuple[float, float]] = {
    "alpha": (0.0, np.inf),
    "beta": (0.0, np.inf),
    "orientation_weight": (0.0, np.inf),
    "target_angle": (0.0, 90.0),
    "agent_weights": (0.0, np.inf),
    "discount": (0.0, 1.0),
    "smoothing": (0.0, 1.0),
    "reward_low": (-np.inf, np.inf),
    "reward_high": (-np.inf, np.inf),
    "warmup_steps": (0.0, np.inf),
    "age_discount": (0.0, 1.0),
}


def _concrete(value: Any) -> np.ndarray | None:
    """The numbers of `value`, one after the other, if they are there to look at."""
    parts = value if isinstance(value, tuple) else (value,)
    if parts and all(isinstance(part, int | float | np.ndarray | np.number) for part in parts):
        return np.concatenate([np.ravel(part) for part in parts]).astype(np.float64)
    return None
