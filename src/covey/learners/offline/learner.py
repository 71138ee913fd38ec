"""Offline training as a program: an offline learner on a dataset, and on what a world model makes of it.

An update is `gradient_steps` steps of the learner, each on a batch of segments drawn from the dataset, uniformly or by
priority, and then an evaluation where one is due, which is all that the environment is for. With a world model an
update begins with a fit of it and with rollouts of the current policies, which last for the update; each segment of a
batch is one of those with probability `synthetic_share`. Whatever else makes segments (`covey.diffusion.coda`) hands
them to `Offline.update`.

`sampling="pjap"` is proximal joint-action prioritisation (Tilbury et al., 2407.01343): the segments whose actions are
close to what the (target) policies would do now come more often,

    priority = max(exp(-(4 mean |a - pi'(o)|)^2), floor),   P = priority^0.99 / sum

of which each step brings `refresh` random segments up to date. All start with priority 1.

Letters: K segments of the dataset, B batch, L rows, N agents, E envs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from covey.learners import evaluation
from covey.learners.base import Metrics, check_numbers
from covey.learners.offline.base import OfflineLearner
from covey.learners.offline.segments import Segments, Source, gather, mix
from covey.learners.offline.world_model import WorldModel

Sampling = Literal["uniform", "pjap"]


class Made(NamedTuple):
    """Made-up segments [M, L, ...] with L = horizon + 1, and the probability that one of them takes the place of a
    segment of a batch; a traced number."""

    segments: Segments
    share: jax.Array | float


@dataclass(frozen=True)
class OfflineConfig:
    """How an offline learner is fed and judged."""

    horizon: int = 20
    """Transitions per segment; memory starts empty with each."""
    stride: int = 1
    """Steps between the beginnings of two segments of an episode."""
    batch_size: int = 32
    """Segments per gradient step."""
    gradient_steps: int = 1000
    """Gradient steps per update."""
    sampling: Sampling = "uniform"
    """How the dataset's segments are drawn; `pjap`: by how close their actions are to the policies'."""
    refresh: int = 1024
    """Sampling pjap: segments whose priority is brought up to date before each gradient step."""
    held_out: float = 0.05
    """With a world model: share of the episodes by which its members are judged, and which nothing is learned from."""
    eval_episodes: int = 10
    """Greedy episodes per evaluation; always the same starts."""
    eval_steps: int | None = None
    """Steps after which an evaluation episode is cut; by default the environment's time limit."""

    def __post_init__(self) -> None:
        names = ("horizon", "stride", "batch_size", "gradient_steps", "refresh", "eval_episodes")
        check_numbers(self, names, lambda x: x >= 1, "an integer of at least 1")
        check_numbers(self, ("held_out",), lambda x: 0 <= x < 1, "a number in [0, 1)")
        if self.sampling not in get_args(Sampling):
            raise ValueError(f"sampling is {self.sampling!r}; allowed: {', '.join(get_args(Sampling))}")
        if self.eval_steps is not None and self.eval_steps < 1:
            raise ValueError(f"eval_steps is {self.eval_steps}; allowed: an integer of at least 1, or None")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OfflineCarry:
    """Everything that changes during training.

    base: the learner's own carry. priority: float32[K], or None where segments are drawn uniformly. model: the world
    model's state, or None.
    """

    base: Any
    key: jax.Array
    update: jax.Array  # int32[], updates done
    priority: jax.Array | None
    model: Any


@dataclass(frozen=True)
class Offline:
    """One seed's offline training; see `covey.learners.base.Learner`. `data` of `update` is a `Source`.

    num_segments: K, `len(data.starts)`, for `sampling="pjap"` alone.
    """

    env: Any
    base: OfflineLearner
    config: OfflineConfig = OfflineConfig()
    model: WorldModel | None = None
    num_segments: int = 0

    def __post_init__(self) -> None:
        _ = self.eval_steps  # Raises where there is no number.
        if self.config.sampling == "pjap" and self.num_segments < 1:
            raise ValueError(f"num_segments is {self.num_segments}; allowed with sampling pjap: len(data.starts)")
        if self.model is not None and self.model.config.rollout_length > self.config.horizon:
            raise ValueError(
                f"rollout_length is {self.model.config.rollout_length}; allowed: 1 to horizon = {self.config.horizon}"
            )

    @property
    def steps_per_update(self) -> int:
        return 0

    @property
    def eval_steps(self) -> int:
        """Steps after which an evaluation episode is cut."""
        return evaluation.episode_steps(self.env, self.config.eval_steps)

    def init(self, key: jax.Array, hp: Any) -> OfflineCarry:
        key_base, key_model, key_run = jax.random.split(key, 3)
        return OfflineCarry(
            base=self.base.init(key_base, hp),
            key=key_run,
            update=jnp.zeros((), jnp.int32),
            priority=jnp.ones(self.num_segments, jnp.float32) if self.config.sampling == "pjap" else None,
            model=None if self.model is None else self.model.init(key_model, hp),
        )

    def update(
        self, carry: OfflineCarry, data: Source | None = None, made: Sequence[Made] = ()
    ) -> tuple[OfflineCarry, Metrics]:
        """See the module. made: segments from elsewhere; the world model's rollouts come on top of them."""
        assert data is not None, "an offline learner needs a `Source`"
        key, key_model, key_learn = jax.random.split(carry.key, 3)
        metrics = {}
        if self.model is not None:
            carry, rollouts, metrics = self._imagine(carry, data, key_model)
            ready = carry.update >= self.model.config.warmup_updates
            share = jnp.where(ready, self.base.hyperparameters(carry.base).synthetic_share, 0.0)
            made = [*made, Made(rollouts, share)]
            metrics |= {"synthetic_share": share}
        carry, learned = self.learn(carry, data, key_learn, made)
        return replace(carry, key=key, update=carry.update + 1), metrics | learned

    def _imagine(self, carry: OfflineCarry, data: Source, key: jax.Array) -> tuple[OfflineCarry, Segments, Metrics]:
        """The world model after a fit, and what the policies live through in it."""
        assert self.model is not None
        base, hp, params = self.base, self.base.hyperparameters(carry.base), self.base.policy(carry.base)
        key_fit, key_rollout = jax.random.split(key)
        model, fitted = self.model.fit(carry.model, data, key_fit, hp)
        synthetic, lived = self.model.rollout(
            model, lambda obs, memory: base.act(params, obs, memory), base.start(), data, key_rollout,
            self.config.horizon, hp,
        )  # fmt: skip
        return replace(carry, model=model), synthetic, fitted | lived

    def learn(
        self, carry: OfflineCarry, data: Source, key: jax.Array, made: Sequence[Made] = ()
    ) -> tuple[OfflineCarry, Metrics]:
        """`gradient_steps` steps of the learner; metrics averaged over them. Neither key nor counter of the carry is
        touched."""
        config = self.config

        def one(loop: tuple, key_step: jax.Array) -> tuple[tuple, Metrics]:
            base, priority = loop
            key_draw, key_made, key_refresh = jax.random.split(key_step, 3)
            if priority is not None:
                priority = self._refreshed(base, priority, data, key_refresh)
            index = self._draw(base, priority, data, key_draw)
            batch = gather(data, data.starts[index], config.horizon)
            for i, (segments, share) in enumerate(made):
                key_pick, key_mix = jax.random.split(jax.random.fold_in(key_made, i))
                pick = jax.random.randint(key_pick, (config.batch_size,), 0, segments.real.shape[0])
                batch = mix(key_mix, share, batch, jax.tree.map(lambda x, pick=pick: x[pick], segments))
            base, metrics = self.base.learn(base, batch)
            return (base, priority), metrics

        keys = jax.random.split(key, config.gradient_steps)
        (base, priority), metrics = jax.lax.scan(one, (carry.base, carry.priority), keys)
        metrics = {name: jnp.mean(x, axis=0) for name, x in metrics.items()}
        return replace(carry, base=base, priority=priority), metrics

    def _draw(self, base: Any, priority: jax.Array | None, data: Source, key: jax.Array) -> jax.Array:
        """Numbers of the segments of a batch, int32[B], with replacement."""
        count, shape = data.starts.shape[0], (self.config.batch_size,)
        if priority is None:
            return jax.random.randint(key, shape, 0, count)
        total = jnp.cumsum(priority ** self.base.hyperparameters(base).pjap_exponent)
        index = jnp.searchsorted(total, jax.random.uniform(key, shape) * total[-1], side="right")
        return jnp.minimum(index, count - 1)

    def _refreshed(self, base: Any, priority: jax.Array, data: Source, key: jax.Array) -> jax.Array:
        """Priorities, some of them brought up to date."""
        hp = self.base.hyperparameters(base)
        index = jax.random.randint(key, (self.config.refresh,), 0, data.starts.shape[0])
        gap = self.base.distance(base, gather(data, data.starts[index], self.config.horizon))
        return priority.at[index].set(jnp.maximum(jnp.exp(-jnp.square(hp.pjap_sharpness * gap)), hp.pjap_floor))

    # --- Judging ---

    def evaluate(self, carry: OfflineCarry, key: jax.Array) -> Metrics:
        """Means over greedy episodes of the sums of rewards and of what the environment reports."""
        count = self.config.eval_episodes
        step, memory = policy_step(self.env, self.base, self.policy(carry), count)
        return evaluation.evaluate(self.env, step, memory, count, self.eval_steps, key)

    def policy(self, carry: OfflineCarry) -> Any:
        return self.base.policy(carry.base)

    def episode(self, carry: OfflineCarry, key: jax.Array) -> tuple[Any, jax.Array]:
        step, memory = policy_step(self.env, self.base, self.policy(carry), 1)
        return evaluation.play(self.env, step, memory, self.eval_steps, key)


def policy_step(env: Any, base: OfflineLearner, params: Any, count: int) -> tuple[evaluation.Step, jax.Array]:
    """A greedy step of `count` environments for `covey.learners.evaluation`, and their memories [E, N, M] at first."""

    def step(env_state: Any, memory: jax.Array, key: jax.Array) -> tuple[Any, jax.Array, Any]:
        obs = jax.vmap(env.observe)(env_state)
        obs = obs.reshape(*obs.shape[:2], -1).astype(jnp.float32)
        action, memory = jax.vmap(lambda o, m: base.act(params, o, m))(obs, memory)
        env_state, outcome = jax.vmap(env.advance)(jax.random.split(key, count), env_state, action)
        return env_state, memory, outcome

    start = base.start()
    return step, jnp.broadcast_to(start, (count, *start.shape))
