"""Social rewards: what an agent is trained on, made of its own reward and of what it knows of others'.

    e_i   = gamma lambda e_i + r_i                                             smoothed rewards
    v_i   = (e_i - m_i) / (M_i - m_i)   or   e_i                               (i)   relative to each agent's range
    V_ij  = what i knows of v_j                                                (iii) global, or by sight and gossip
    u_i   = r_i - w_i / (N - 1) sum_{j != i} [alpha max(V_ij - v_i, 0) + beta max(v_i - V_ij, 0)]         inequity
    u_i   = r_i - w_i w |theta* - arctan(sum_{j != i} V_ij / (N - 1) / v_i)|                              orientation
                                                                               (ii)  with weights w_i

Sources: inequity aversion, Hughes et al. 2018 (1803.08884), eq. 3 and 4; social value orientation, McKee et al. 2020;
(i) to (iii), "Fairness over Equality" (2602.15407), in the order of its authors' code.

A `SocialReward` is a value of static switches with pure functions for one environment, whose numbers come as
`SocialParameters`; vmap `step` over environments. Letters: E envs, N agents.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from covey.social import terms
from covey.social.gossip import hear
from covey.social.parameters import SocialParameters

Diagnostics: TypeAlias = dict[str, jax.Array]

Term = Literal["none", "shared", "inequity", "orientation"]
Normalise = Literal["none", "running", "shared", "analytic", "warmup"]
Weighting = Literal["none", "given", "range"]
Feedback = Literal["global", "gossip", "memory", "visible"]
Unmet = Literal["zero", "skip"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SocialState:
    """What a social reward remembers of one environment. The bounds outlive episodes; all else starts anew.

    smoothed: e, float32[N].
    lower, upper: m, M, float32[N]: lowest and highest e so far; inf and -inf before the first step.
    steps: int32[], steps so far, in all episodes.
    elapsed: int32[], steps so far in this episode.
    known: V, float32[N, N], [i, j] the last v_j that i heard of; None where agents do not remember.
    age: int32[N, N], how many steps ago that was v_j; likewise.
    """

    smoothed: jax.Array
    lower: jax.Array
    upper: jax.Array
    steps: jax.Array
    elapsed: jax.Array
    known: jax.Array | None
    age: jax.Array | None


@dataclass(frozen=True)
class SocialReward:
    """The static switches of a social reward; `covey.social.make` gives those of a method by name."""

    term: Term = "none"
    """What is added to an agent's reward: nothing, inequity aversion or social value orientation; or "shared": its
    reward is replaced by that of its group."""
    normalise: Normalise = "none"
    """Bounds that smoothed rewards are taken relative to: none; lowest and highest so far in the environment
    ("running"), the same over all environments ("shared", by `pool`), from the parameters ("analytic"), or the running
    ones as they were after warmup_steps ("warmup")."""
    weighting: Weighting = "given"
    """Weights of agents: 1 ("none"), agent_weights ("given"), or these times each agent's range of smoothed rewards
    over the mean range ("range")."""
    feedback: Feedback = "global"
    """What agents know of others: everything ("global"); what they see and are told ("gossip"); the last that they saw
    ("memory"); or only what they see now, averaged over those whom they see ("visible")."""
    unmet: Unmet = "zero"
    """Others of whom nothing was ever heard count as 0, as in the paper, or are left out ("skip")."""
    clamp: bool = False
    """Keep smoothed rewards above 0, as the paper's SVO baseline does; without effect if they are normalised."""
    unit: Literal["degrees", "radians"] = "degrees"
    """What reward angles are counted in."""
    share: Literal["sum", "mean"] = "sum"
    """What a group shares."""
    groups: tuple[int, ...] | None = None
    """Group of each agent, for shared rewards; None for one group."""

    def __post_init__(self) -> None:
        if isinstance(self.groups, list):
            object.__setattr__(self, "groups", tuple(self.groups))
        for name, kind in _ALLOWED.items():
            if getattr(self, name) not in kind:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(kind)}")

    def check(self, num_agents: int, hp: SocialParameters) -> None:
        """Raise ValueError unless this reward and its parameters fit `num_agents` agents."""
        if self.term in ("inequity", "orientation") and num_agents < 2:
            raise ValueError(f"num_agents is {num_agents}; allowed: at least 2, since a social reward compares agents")
        if self.groups is not None and len(self.groups) != num_agents:
            raise ValueError(f"groups is {self.groups}; allowed: one for each of {num_agents} agents")
        hp.check(num_agents)
        if self.normalise == "analytic" and isinstance(hp.decay, float) and hp.decay >= 1:
            raise ValueError(f"smoothing is {hp.smoothing}; allowed for analytic bounds: discount * smoothing below 1")

    def init(self, num_agents: int) -> SocialState:
        """The state before the first step of an environment."""
        remembers = self._remembers
        return SocialState(
            smoothed=jnp.full(num_agents, self._start, jnp.float32),
            lower=jnp.full(num_agents, jnp.inf, jnp.float32),
            upper=jnp.full(num_agents, -jnp.inf, jnp.float32),
            steps=jnp.zeros((), jnp.int32),
            elapsed=jnp.zeros((), jnp.int32),
            known=jnp.zeros((num_agents, num_agents), jnp.float32) if remembers else None,
            age=jnp.zeros((num_agents, num_agents), jnp.int32) if remembers else None,
        )

    def restart(self, state: SocialState) -> SocialState:
        """The state at the start of another episode, with the bounds of `state`."""
        fresh = self.init(state.smoothed.shape[-1])
        return dataclasses.replace(fresh, lower=state.lower, upper=state.upper, steps=state.steps)

    def pool(self, states: SocialState) -> SocialState:
        """The states [E] of a batch of environments with bounds taken over all of them, if `normalise` is "shared".

        Call it once per update, or more often for bounds that lag less; environments need the same agents in the same
        places.
        """
        if self.normalise != "shared":
            return states
        lower = jnp.broadcast_to(jnp.min(states.lower, axis=0), states.lower.shape)
        upper = jnp.broadcast_to(jnp.max(states.upper, axis=0), states.upper.shape)
        return dataclasses.replace(states, lower=lower, upper=upper)

    def step(
        self,
        state: SocialState,
        rewards: jax.Array,
        visible: jax.Array | None,
        done: jax.Array,
        hp: SocialParameters,
    ) -> tuple[SocialState, jax.Array, Diagnostics]:
        """One environment's step: `(state, shaped rewards float32[N], diagnostics)`.

        rewards: r, [N], of the environment. visible: bool[N, N], [i, j] where i sees j in the state that the step led
        to, before a reset; None: all see all. done: bool[], this step ended the episode: it still counts for it, and
        the returned state is that of the next episode's start.

        Diagnostics, float32[N]: social_reward (shaped minus own), smoothed_reward (e), reward_range (M - m);
        envy and guilt (weighted, both costs) or reward_angle (in `unit`; its target where undefined); information_age
        (sum_j of ages) where agents remember.
        Raises ValueError while tracing for arrays of wrong shapes.
        """
        num_agents = state.smoothed.shape[0]
        _check_shape("rewards", rewards, (num_agents,), "one reward per agent")
        if visible is not None:
            _check_shape("visible", visible, (num_agents, num_agents), "who sees whom")
        _check_shape("done", done, (), "one flag for the episode")
        self.check(num_agents, hp)
        rewards = jnp.asarray(rewards, jnp.float32)

        state = self._observe(state, rewards, hp)
        lower, upper = self._bounds(state, hp)
        value = state.smoothed if self.normalise == "none" else terms.normalise(state.smoothed, lower, upper)
        state, others, counted, divisor = self._inform(state, value, visible, hp)
        weight = self._weight(jnp.broadcast_to(upper - lower, (num_agents,)), hp)

        diagnostics = {"smoothed_reward": state.smoothed, "reward_range": state.upper - state.lower}
        if state.age is not None:
            diagnostics["information_age"] = jnp.sum(state.age, axis=1).astype(jnp.float32)
        if self.term == "shared":
            shaped = self._share(rewards)
        elif self.term == "inequity":
            envy, guilt = terms.inequity(value, others, counted, divisor)
            envy = weight * hp.per_agent("alpha", num_agents) * envy
            guilt = weight * hp.per_agent("beta", num_agents) * guilt
            shaped = rewards - envy - guilt
            diagnostics |= {"envy": envy, "guilt": guilt}
        elif self.term == "orientation":
            angle, defined = terms.orientation(value, others, counted, divisor)
            target = hp.per_agent("target_angle", num_agents)
            angle = jnp.where(defined, angle, target)  # An undefined angle costs nothing.
            if self.unit == "radians":
                angle, target = jnp.deg2rad(angle), jnp.deg2rad(target)
            shaped = rewards - weight * hp.per_agent("orientation_weight", num_agents) * jnp.abs(target - angle)
            diagnostics["reward_angle"] = angle
        else:
            shaped = rewards
        diagnostics["social_reward"] = shaped - rewards
        state = jax.tree.map(lambda new, old: jnp.where(done, new, old), self.restart(state), state)
        return state, shaped, diagnostics

    # --- Parts ---

    @property
    def _remembers(self) -> bool:
        return self.term in ("inequity", "orientation") and self.feedback in ("gossip", "memory")

    @property
    def _clamps(self) -> bool:
        return self.clamp and self.normalise == "none"

    @property
    def _start(self) -> float:
        return terms.SMOOTHED_FLOOR if self._clamps else 0.0

    def _observe(self, state: SocialState, rewards: jax.Array, hp: SocialParameters) -> SocialState:
        """Smoothed rewards and bounds after a step; the bounds first take in the step's own values."""
        smoothed = terms.smooth(state.smoothed, rewards, hp.decay, self._clamps)
        lower, upper = jnp.minimum(state.lower, smoothed), jnp.maximum(state.upper, smoothed)
        if self.normalise == "warmup":
            # The first step always counts: there are no bounds before it.
            fixed = (state.steps >= hp.warmup_steps) & (state.steps > 0)
            lower, upper = jnp.where(fixed, state.lower, lower), jnp.where(fixed, state.upper, upper)
        return dataclasses.replace(
            state, smoothed=smoothed, lower=lower, upper=upper, steps=state.steps + 1, elapsed=state.elapsed + 1
        )

    def _bounds(self, state: SocialState, hp: SocialParameters) -> tuple[jax.Array, jax.Array]:
        """m, M, each [N] or []."""
        if self.normalise != "analytic":
            return state.lower, state.upper
        num_agents = state.smoothed.shape[0]
        low, high = (hp.per_agent(name, num_agents) / (1.0 - hp.decay) for name in ("reward_low", "reward_high"))
        return low, high

    def _weight(self, span: jax.Array, hp: SocialParameters) -> jax.Array | float:
        """w, [N] or [], from the agents' ranges [N]."""
        if self.weighting == "none":
            return 1.0
        given = hp.per_agent("agent_weights", span.shape[0])
        if self.weighting == "given":
            return given
        mean = jnp.mean(span)
        return given * jnp.where(mean > 0, span / jnp.where(mean > 0, mean, 1.0), 1.0)

    def _inform(
        self, state: SocialState, value: jax.Array, visible: jax.Array | None, hp: SocialParameters
    ) -> tuple[SocialState, jax.Array, jax.Array, jax.Array | float]:
        """State with new tables, what i knows of j [N, N], which j count for i bool[N, N], and what sums over them are
        divided by, [] or [N]."""
        num_agents = value.shape[0]
        everyone = jnp.asarray(~np.eye(num_agents, dtype=bool))
        sees = everyone if visible is None else everyone & visible
        others = jnp.broadcast_to(value, (num_agents, num_agents))
        if self.feedback == "global":
            return state, others, everyone, max(num_agents - 1, 1)
        if self.feedback == "visible":
            return state, others, sees, jnp.maximum(jnp.sum(sees, axis=1), 1)
        if state.known is None or state.age is None:  # No term that needs them.
            return state, others, everyone, max(num_agents - 1, 1)
        known, age = hear(state.known, state.age, value, sees, gossip=self.feedback == "gossip")
        state = dataclasses.replace(state, known=known, age=age)
        others = known * jnp.asarray(hp.age_discount, jnp.float32) ** age
        if self.unmet == "zero":
            return state, others, everyone, num_agents - 1
        counted = everyone & (age < state.elapsed)  # As old as the episode: never heard of.
        if self.term == "inequity":
            return state, others, counted, num_agents - 1
        return state, others, counted, jnp.maximum(jnp.sum(counted, axis=1), 1)

    def _share(self, rewards: jax.Array) -> jax.Array:
        """The sum or mean of each agent's group, [N]."""
        groups = np.zeros(rewards.shape[0]) if self.groups is None else np.asarray(self.groups)
        same = groups[:, None] == groups
        total = jnp.sum(jnp.where(same, rewards, 0.0), axis=1)
        return total if self.share == "sum" else total / same.sum(axis=1)


_ALLOWED = {
    "term": get_args(Term),
    "normalise": get_args(Normalise),
    "weighting": get_args(Weighting),
    "feedback": get_args(Feedback),
    "unmet": get_args(Unmet),
    "unit": ("degrees", "radians"),
    "share": ("sum", "mean"),
}


def _check_shape(name: str, value: jax.Array, shape: tuple[int, ...], what: str) -> None:
    if jnp.shape(value) != shape:
        raise ValueError(f"{name} has shape {jnp.shape(value)}; allowed: {shape}, {what}")
