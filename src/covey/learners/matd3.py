"""Multi-agent TD3: deterministic actors under any sharing scheme, and twin critics that see everything.

    a'  = clip(pi'_i(o'_i) + clip(eps, -c, c), -1, 1) for every agent i,   eps ~ N(0, sigma'^2)
    y   = r + gamma (1 - terminated) min_k Q'_k(s', a'),   L_critic = sum_k mean (Q_k(s, a) - y)^2
    L_i = -mean Q_1(s, a_1, ..., pi_i(o_i), ..., a_N)      once in `policy_delay` critic steps, then
    theta' <- theta' + tau (theta - theta')                for all targets

Ackermann et al., "Reducing overestimation bias in multi-agent domains using double centralized critics" (1910.01465),
on TD3 (Fujimoto et al. 2018) and MADDPG (Lowe et al. 2017). With hypernetworks it is HyperMARL's MATD3 (2412.04233,
table 7): two critics, no diversity loss.

An episode that was cut off is bootstrapped from the state it was cut at; one that terminated is not. With `n_step` r is
the discounted sum of the next rewards, of fewer where the episode ends or the rollout does, and no correction is made
for the policy that collected them. Actions are scaled to [-1, 1] from each agent's own bounds; noises are in these
units. Padding (agents with fewer actions than others) is 0 in what actors give and does not enter critics at all.

Collection, replay and gradient steps are one program: the replay lies on the device, in the carry. Where agents share
no parameter (NoPS) each has its own loss, gradient clipping and Adam.

Letters: E envs, T rollout steps, N agents, B minibatch, O obs, A actions, G critic state, R rows: N, or 1 for a team.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from covey.learners import evaluation, gradients, replay
from covey.learners.base import Metrics, check_numbers, own_entries
from covey.learners.replay import Replay
from covey.policies.actor_critic import ActorCritic, PolicyConfig, make_scheme
from covey.policies.hypernet import Hypernetwork
from covey.policies.independent import IndependentActors
from covey.policies.networks import MLP, Network, Weights
from covey.policies.sharing import FullSharing, NoSharing, SharingScheme, count_parameters

CriticName = Literal["per_agent", "team", "as_actor"]
CriticInput = Literal["state", "obs"]
Others = Literal["replay", "policy"]
ReplayOf = Literal["observations", "states"]


@dataclass(frozen=True)
class MATD3Config:
    """MATD3's sizes and switches: what shapes the compiled program."""

    num_envs: int = 10
    """Environments stepped in parallel."""
    num_steps: int = 50
    """Steps of each environment between updates."""
    buffer_size: int = 1_000_000
    """Transitions that the replay holds, on the device, for each seed."""
    gradient_steps: int = 50
    """Gradient steps of the critics per update."""
    batch_size: int = 1000
    """Transitions per gradient step, drawn uniformly."""
    policy_delay: int = 2
    """Critic steps before each step of the actors and the targets. Must divide gradient_steps."""
    n_step: int = 1
    """Steps whose rewards are summed before a critic takes over; at most num_steps."""
    critic: CriticName = "per_agent"
    """Who shares critics: `per_agent` a pair each; `team` one pair for the agents' mean reward; `as_actor` a pair from
    the scheme that makes the actors (hypernetworks then generate it)."""
    critic_input: CriticInput = "state"
    """What critics see besides the joint action: the environment's global state, or all observations."""
    critic_hidden_sizes: tuple[int, ...] = (256, 256)
    """Units in each hidden layer of the critics."""
    others: Others = "replay"
    """The other agents' actions in an agent's loss: those taken, or those that their policies take now."""
    replay_of: ReplayOf = "observations"
    """What the replay keeps: what agents and critics saw; or the environment's states, which are observed anew at each
    gradient step, and far smaller where many agents see much."""
    eval_episodes: int = 10
    """Greedy episodes per evaluation; always the same starts."""
    eval_steps: int | None = None
    """Steps after which an evaluation episode is cut; by default the environment's time limit."""

    def __post_init__(self) -> None:
        names = ("num_envs", "num_steps", "gradient_steps", "batch_size", "policy_delay", "eval_episodes")
        check_numbers(self, names, lambda x: x >= 1, "an integer of at least 1")
        if self.gradient_steps % self.policy_delay:
            raise ValueError(
                f"policy_delay is {self.policy_delay}; allowed: a divisor of gradient_steps = {self.gradient_steps}"
            )
        if self.buffer_size < self.steps_per_update:
            raise ValueError(
                f"buffer_size is {self.buffer_size}; allowed: at least num_envs x num_steps = {self.steps_per_update}"
            )
        if not 1 <= self.n_step <= self.num_steps:
            raise ValueError(f"n_step is {self.n_step}; allowed: 1 to num_steps = {self.num_steps}")
        if any(size < 1 for size in self.critic_hidden_sizes):
            raise ValueError(f"critic_hidden_sizes is {self.critic_hidden_sizes}; allowed: integers of at least 1")
        if self.eval_steps is not None and self.eval_steps < 1:
            raise ValueError(f"eval_steps is {self.eval_steps}; allowed: an integer of at least 1, or None")
        kinds = {"critic": CriticName, "critic_input": CriticInput, "others": Others, "replay_of": ReplayOf}
        for name, kind in kinds.items():
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(get_args(kind))}")

    @property
    def steps_per_update(self) -> int:
        """Environment steps between two updates."""
        return self.num_envs * self.num_steps


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MATD3Hyperparameters:
    """MATD3's numbers: array leaves of the compiled program, so that changing or sweeping them compiles nothing anew.

    Noises are standard deviations, for actions scaled to [-1, 1].
    """

    learning_rate: float = 5e-4
    """Adam's step size for actors."""
    critic_learning_rate: float = 1e-3
    """Adam's step size for critics."""
    discount: float = 0.99
    """Discount per step, gamma."""
    target_rate: float = 0.005
    """How far targets move to the networks at each step of the actors, tau."""
    exploration_noise: float = 0.1
    """Noise on actions while collecting."""
    target_noise: float = 0.2
    """Noise on the targets' actions, sigma'."""
    target_noise_clip: float = 0.5
    """Largest such noise, c."""
    warmup_steps: float = 10_000.0
    """Environment steps with uniformly random actions and without learning, rounded up to whole updates."""
    max_grad_norm: float = 10.0
    """Gradients of actors and of critics are scaled down to this global norm (each agent's own where nothing is
    shared)."""
    adam_epsilon: float = 1e-8
    """Adam's epsilon."""

    def __post_init__(self) -> None:
        names = ("learning_rate", "critic_learning_rate", "max_grad_norm", "adam_epsilon")
        check_numbers(self, names, lambda x: x > 0, "a number above 0")
        check_numbers(self, ("discount", "target_rate"), lambda x: 0 <= x <= 1, "a number in [0, 1]")
        names = ("exploration_noise", "target_noise", "target_noise_clip", "warmup_steps")
        check_numbers(self, names, lambda x: x >= 0, "a number of at least 0")


class Stored(NamedTuple):
    """One step (or `n_step` of them) of one environment as the replay keeps it."""

    before: Any  # The environment's state, or (float32[N, O], float32[G] or None)
    action: jax.Array  # float32[N, A], in [-1, 1], padding 0
    reward: jax.Array  # float32[N], discounted sum
    bootstrap: jax.Array  # float32[], what the value of the next state counts: gamma^n, 0 where the episode terminated
    after: Any  # As before; before a reset


class Batch(NamedTuple):
    """A minibatch of such steps, with what agents and critics see."""

    obs: jax.Array  # [N, B, O]
    state: jax.Array | None  # [B, G], where critics see the global state
    action: jax.Array  # [N, B, A]
    reward: jax.Array  # [N, B]
    bootstrap: jax.Array  # [B]
    next_obs: jax.Array  # [N, B, O]
    next_state: jax.Array | None  # [B, G]


class Statistics(NamedTuple):
    """What metrics need of a rollout, [T, ...]."""

    reward: jax.Array  # [N, E]
    returned: jax.Array  # [N, E], return of the episode that ended here, else 0
    length: jax.Array  # int32[E], its length, else 0


class Trained(NamedTuple):
    """What gradient steps change; each a dictionary with "actor" and "critic"."""

    params: Any
    target: Any
    optimizer: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MATD3Carry:
    """Everything that changes during training."""

    trained: Trained
    hp: MATD3Hyperparameters
    key: jax.Array
    update: jax.Array  # int32[], updates done
    replay: Replay
    env_state: Any  # [E, ...]
    running_return: jax.Array  # [N, E], of the episode under way
    running_length: jax.Array  # int32[E]


@dataclass(frozen=True)
class Actor(ActorCritic):
    """One deterministic policy per agent, in place of actor and critic; else as `ActorCritic`. Use `act`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.config.sharing == "dico":
            raise ValueError("sharing is 'dico'; allowed with deterministic policies: the others")
        if isinstance(self.scheme, Hypernetwork):
            object.__setattr__(self, "scheme", replace(self.scheme, generate=("actor",)))

    def _networks(self, config: PolicyConfig) -> dict[str, Network]:
        return {"actor": super()._networks(config)["actor"]}

    def act(self, weights: dict[str, Weights], obs: jax.Array) -> jax.Array:
        """tanh of the networks' outputs, [N, B, A] in [-1, 1], from obs [N, B, O]."""
        network, batch = self.networks["actor"], obs.shape[1]
        memory, reset = network.start(self.num_agents, batch), jnp.zeros((1, 1, batch), jnp.bool_)
        outputs, _ = self.scheme.unroll(network, weights["actor"], self.scheme.identify(obs[None]), memory, reset)
        return jnp.tanh(outputs[0])


@dataclass(frozen=True)
class TwinCritic:
    """Two networks per agent (or for all of a team) that value a joint action. Parameters are [2, ...]."""

    kind: CriticName
    policy_config: PolicyConfig
    num_agents: int
    input_size: int
    hidden_sizes: tuple[int, ...]

    @property
    def rows(self) -> int:
        """R: how many values there are of a joint action."""
        return 1 if self.kind == "team" else self.num_agents

    @cached_property
    def scheme(self) -> SharingScheme:
        if self.kind == "team":
            return FullSharing(1)
        if self.kind == "per_agent":
            return NoSharing(self.num_agents)
        scheme = make_scheme(self.policy_config, self.num_agents)
        return replace(scheme, generate=("critic",)) if isinstance(scheme, Hypernetwork) else scheme

    @cached_property
    def networks(self) -> dict[str, Network]:
        inputs = self.scheme.input_size(self.input_size)
        policy = self.policy_config
        return {"critic": MLP(inputs, 1, self.hidden_sizes, policy.activation, layer_norm=policy.layer_norm)}

    @property
    def separate(self) -> bool:
        """Whether agents share no parameter."""
        return self.scheme.separate(self.networks)

    def count_parameters(self) -> int:
        """How many numbers are trained."""
        return 2 * count_parameters(self.scheme, self.networks)

    def init(self, key: jax.Array) -> Any:
        """Trainable parameters of both."""
        return jax.vmap(lambda k: self.scheme.init(k, self.networks))(jax.random.split(key))

    def first(self, params: Any) -> Any:
        """Those of the one that actors follow."""
        return jax.tree.map(lambda p: p[0], params)

    def value(self, params: Any, x: jax.Array) -> jax.Array:
        """Values [R, B] (a team's: as many rows as x has) by one of the two, from inputs x [N or 1, B, I]."""
        network, scheme = self.networks["critic"], self.scheme
        if self.kind != "team" and isinstance(scheme, FullSharing | IndependentActors):  # One, told (or not) who asks.
            x = jnp.broadcast_to(x, (self.num_agents, *x.shape[1:]))
        weights, batch = scheme.weights(params, self.networks)["critic"], x.shape[1]
        memory, reset = network.start(self.rows, batch), jnp.zeros((1, 1, batch), jnp.bool_)
        return scheme.unroll(network, weights, scheme.identify(x[None]), memory, reset)[0][0, ..., 0]

    def values(self, params: Any, x: jax.Array) -> jax.Array:
        """Values [2, R, B] by both."""
        return jax.vmap(self.value, in_axes=(0, None))(params, x)


@dataclass(frozen=True)
class MATD3:
    """One seed's MATD3 on an environment of the contract in `envs_jax.base` with continuous actions; see
    `covey.learners.base.Learner`."""

    env: Any
    policy_config: PolicyConfig = PolicyConfig(hidden_sizes=(256, 256))
    config: MATD3Config = MATD3Config()

    def __post_init__(self) -> None:
        space = self.env.action_space()
        if hasattr(space, "n") or len(space.shape) != 1:
            raise ValueError(f"MATD3 needs vectors of continuous actions; {self.env.name} has {space}")
        if not np.isfinite(np.stack(self._bounds)).all():
            raise ValueError(f"MATD3 needs actions with finite bounds; {self.env.name} has {space}")
        if self.policy_config.recurrent:
            raise ValueError("recurrent is True; allowed with MATD3: False, its networks are feed-forward")
        if self.config.critic == "as_actor" and self.policy_config.sharing == "fups_id_only":
            raise ValueError(
                "critic is 'as_actor' with sharing fups_id_only, which sees ids alone; allowed: the others"
            )
        _ = self.eval_steps  # Raises where there is no number.

    def check(self) -> None:
        """Raise ValueError unless these networks fit together and the environment."""
        self.actor.count_parameters()
        self.critic.count_parameters()

    @property
    def steps_per_update(self) -> int:
        return self.config.steps_per_update

    @property
    def eval_steps(self) -> int:
        """Steps after which an evaluation episode is cut."""
        return evaluation.episode_steps(self.env, self.config.eval_steps)

    # --- Sizes ---

    @cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest actions, float32[N, A] each; padding is 0."""
        size = self.env.action_space().shape[0]
        own = [self.env.action_space(agent).bounds() for agent in self.env.agents]
        low, high = (np.stack([np.pad(b[i], (0, size - len(b[i]))) for b in own]).astype(np.float32) for i in (0, 1))
        return low, high

    @cached_property
    def act_mask(self) -> np.ndarray:
        """Which action dimensions are not padding, bool[N, A]."""
        return own_entries(self.env.action_space, self.env.agents)

    @cached_property
    def actor(self) -> Actor:
        """The policies, sized for this environment."""
        return Actor(
            self.policy_config,
            num_agents=self.env.num_agents,
            obs_size=int(np.prod(self.env.observation_space().shape)),
            num_outputs=self.env.action_space().shape[0],
        )

    @cached_property
    def critic(self) -> TwinCritic:
        """The critics, sized for this environment."""
        (_, state), _ = self._shapes
        size = self._obs_mask.sum() if state is None else state.shape[-1]
        return TwinCritic(
            self.config.critic,
            self.policy_config,
            num_agents=self.env.num_agents,
            input_size=int(size + self.act_mask.sum()),
            hidden_sizes=self.config.critic_hidden_sizes,
        )

    @cached_property
    def _shapes(self) -> tuple[tuple[Any, Any], Any]:
        """Shapes of what one environment's agents and critics see, and of its state."""
        state = jax.eval_shape(lambda: jax.vmap(self.env.init)(jax.random.split(jax.random.key(0), 1)))
        obs, seen = jax.eval_shape(self._observe, state)
        first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (seen, state))
        return (jax.ShapeDtypeStruct((obs.shape[0], obs.shape[2]), obs.dtype), first[0]), first[1]

    @cached_property
    def _obs_mask(self) -> np.ndarray:
        """Which entries of observations are not padding, bool[N, O]."""
        if len(self.env.observation_space().shape) == 1:
            return own_entries(self.env.observation_space, self.env.agents)
        return np.ones((self.env.num_agents, int(np.prod(self.env.observation_space().shape))), bool)

    @property
    def stored(self) -> Stored:
        """Shapes and types of one replayed step."""
        seen = self._shapes[0 if self.config.replay_of == "observations" else 1]

        def shape(*shape: int) -> Any:
            return jax.ShapeDtypeStruct(shape, jnp.dtype(jnp.float32))

        return Stored(seen, shape(*self.act_mask.shape), shape(self.env.num_agents), shape(), seen)

    def replay_bytes(self, num_seeds: int = 1) -> int:
        """Memory that the replays of so many seeds take on their device, in bytes."""
        return replay.replay_bytes(self.stored, self.config.buffer_size, num_seeds)

    # --- The functions of a learner ---

    def init(self, key: jax.Array, hp: MATD3Hyperparameters) -> MATD3Carry:
        key_actor, key_critic, key_env, key_run = jax.random.split(key, 4)
        num_envs = self.config.num_envs
        params = {"actor": self.actor.init(key_actor), "critic": self.critic.init(key_critic)}
        target = jax.tree.map(jnp.copy, params)  # Its own arrays: the carry is donated.
        optimizer = {name: gradients.adam(hp).init(own) for name, own in params.items()}
        return MATD3Carry(
            trained=Trained(params, target, optimizer),
            hp=jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), hp),
            key=key_run,
            update=jnp.zeros((), jnp.int32),
            replay=replay.init(self.stored, self.config.buffer_size),
            env_state=jax.vmap(self.env.init)(jax.random.split(key_env, num_envs)),
            running_return=jnp.zeros((self.env.num_agents, num_envs), jnp.float32),
            running_length=jnp.zeros(num_envs, jnp.int32),
        )

    def update(self, carry: MATD3Carry, data: Any = None) -> tuple[MATD3Carry, Metrics]:
        key, key_rollout, key_learn = jax.random.split(carry.key, 3)
        warming_up = self.steps_per_update * carry.update.astype(jnp.float32) < carry.hp.warmup_steps
        carry, transitions, seen = self._rollout(carry, key_rollout, warming_up)
        ring = replay.add(carry.replay, transitions)

        def learn(trained: Trained) -> tuple[Trained, Metrics]:
            return self._learn(trained, ring, carry.hp, key_learn)

        def wait(trained: Trained) -> tuple[Trained, Metrics]:
            shapes = jax.eval_shape(learn, trained)[1]
            return trained, jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)

        trained, losses = jax.lax.cond(warming_up, wait, learn, carry.trained)
        metrics = losses | evaluation.finished(seen.returned, seen.length)
        metrics |= {
            "reward": jnp.mean(seen.reward, axis=(0, 2)),
            "warming_up": warming_up.astype(jnp.float32),
            "replay_transitions": ring.size.astype(jnp.float32),
        }
        return replace(carry, trained=trained, key=key, update=carry.update + 1, replay=ring), metrics

    def evaluate(self, carry: MATD3Carry, key: jax.Array) -> Metrics:
        """Means over greedy episodes of the sums of rewards and of what the environment reports."""
        count = self.config.eval_episodes
        return evaluation.evaluate(self.env, self._policy_step(carry), None, count, self.eval_steps, key)

    def policy(self, carry: MATD3Carry) -> Any:
        return carry.trained.params

    def episode(self, carry: MATD3Carry, key: jax.Array) -> tuple[Any, jax.Array]:
        return evaluation.play(self.env, self._policy_step(carry), None, self.eval_steps, key)

    # --- Acting ---

    def _observe(self, env_state: Any) -> tuple[jax.Array, jax.Array | None]:
        """`(obs [N, E, O], critic's state [E, G] or None)` of E environments."""
        obs = jax.vmap(self.env.observe)(env_state)
        obs = jnp.swapaxes(obs.reshape(*obs.shape[:2], -1), 0, 1).astype(jnp.float32)
        if self.config.critic_input == "obs":
            return obs, None
        state = jax.vmap(self.env.global_state)(env_state)
        return obs, state.reshape(state.shape[0], -1).astype(jnp.float32)

    def _act(self, weights: Any, obs: jax.Array, noise: jax.Array | float = 0.0) -> jax.Array:
        """clip(pi(o) + noise, -1, 1), [N, B, A], padding 0."""
        return jnp.clip(self.actor.act(weights, obs) + noise, -1.0, 1.0) * self.act_mask[:, None]

    def _to_env(self, action: jax.Array) -> jax.Array:
        """Actions [N, E, A] in [-1, 1] as the environments take them, [E, N, A], inside their bounds, padding 0."""
        low, high = (jnp.asarray(bound) for bound in self._bounds)
        action = low + 0.5 * (jnp.swapaxes(action, 0, 1) + 1.0) * (high - low)
        return jnp.clip(action, low, high)

    def _policy_step(self, carry: MATD3Carry) -> evaluation.Step:
        """A step of E environments without noise or reset."""
        weights = self.actor.weights(carry.trained.params["actor"])

        def step(env_state: Any, memory: None, key: jax.Array) -> tuple[Any, None, Any]:
            obs, _ = self._observe(env_state)
            keys = jax.random.split(key, obs.shape[1])
            action = self._to_env(self._act(weights, obs))
            env_state, outcome = jax.vmap(self.env.advance)(keys, env_state, action)
            return env_state, memory, outcome

        return step

    def _rollout(
        self, carry: MATD3Carry, key: jax.Array, warming_up: jax.Array
    ) -> tuple[MATD3Carry, Stored, Statistics]:
        """T steps of E environments: the carry after them, transitions [T·E, ...], statistics."""
        config, hp = self.config, carry.hp
        weights = self.actor.weights(carry.trained.params["actor"])

        def step(loop: tuple, key_step: jax.Array) -> tuple[tuple, tuple]:
            before, (obs, state), running_return, running_length = loop
            key_noise, key_random, key_env = jax.random.split(key_step, 3)
            shape = (*obs.shape[:2], self.act_mask.shape[1])
            action = self._act(weights, obs, hp.exploration_noise * jax.random.normal(key_noise, shape))
            anything = jax.random.uniform(key_random, shape, minval=-1.0, maxval=1.0) * self.act_mask[:, None]
            action = jnp.where(warming_up, anything, action)
            keys = jax.random.split(key_env, config.num_envs)
            env_state, outcome, after = jax.vmap(self.env.advance_and_reset)(keys, before, self._to_env(action))
            reward, done = outcome.reward.T.astype(jnp.float32), outcome.done
            running_return, running_length = running_return + reward, running_length + 1
            statistics = Statistics(reward, jnp.where(done, running_return, 0.0), jnp.where(done, running_length, 0))
            running_return, running_length = jnp.where(done, 0.0, running_return), jnp.where(done, 0, running_length)
            if config.replay_of == "observations":
                last_obs, last_state = self._observe(after)
                before, after = (jnp.swapaxes(obs, 0, 1), state), (jnp.swapaxes(last_obs, 0, 1), last_state)
            kept = (before, jnp.swapaxes(action, 0, 1), outcome.terminated, done, after)
            return (env_state, self._observe(env_state), running_return, running_length), (kept, statistics)

        loop = (carry.env_state, self._observe(carry.env_state), carry.running_return, carry.running_length)
        loop, (kept, statistics) = jax.lax.scan(step, loop, jax.random.split(key, config.num_steps))
        env_state, _, running_return, running_length = loop
        before, action, terminated, done, after = kept
        reward, bootstrap, end = n_step_returns(statistics.reward, terminated, done, hp.discount, config.n_step)
        after = jax.tree.map(lambda x: x[end, jnp.arange(config.num_envs)], after)
        kept = Stored(before, action, jnp.swapaxes(reward, 1, 2), bootstrap, after)
        transitions = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), kept)
        carry = replace(carry, env_state=env_state, running_return=running_return, running_length=running_length)
        return carry, transitions, statistics

    # --- Learning ---

    def _learn(
        self, trained: Trained, ring: Replay, hp: MATD3Hyperparameters, key: jax.Array
    ) -> tuple[Trained, Metrics]:
        """All gradient steps of an update; metrics averaged over them."""
        config = self.config

        def differentiate(which: str, loss: Callable[..., tuple[jax.Array, Metrics]]) -> Callable[..., Any]:
            def regularised(params: Any, *rest: Any) -> tuple[jax.Array, Metrics]:
                total, metrics = loss(params, *rest)
                total, more = self.regularise(which, params, total, hp)
                return total, metrics | more

            return jax.value_and_grad(regularised, has_aux=True)

        def critic_step(loop: tuple, keys: jax.Array) -> tuple[tuple, Metrics]:
            critic, optimizer, target = loop
            batch = self._sample(ring, keys[0])
            goal = self.target_value(target, batch, keys[1], hp)
            (_, metrics), grads = differentiate("critic", self.critic_loss)(critic, goal, batch)
            grads, norm = gradients.clip(
                grads, hp.max_grad_norm, self.critic.separate, self.env.num_agents, agent_axis=1
            )
            updates, optimizer = gradients.adam(hp).update(grads, optimizer)
            critic = jax.tree.map(lambda p, u: p - hp.critic_learning_rate * u, critic, updates)
            return (critic, optimizer, target), metrics | {"critic_grad_norm": norm}

        def block(trained: Trained, keys: jax.Array) -> tuple[Trained, tuple[Metrics, Metrics]]:
            params, target, optimizer = trained
            loop = (params["critic"], optimizer["critic"], target)
            (critic, critic_optimizer, _), critic_metrics = jax.lax.scan(critic_step, loop, keys)
            batch = self._sample(ring, keys[-1, 0])  # That of the last critic step.
            (_, metrics), grads = differentiate("actor", self.actor_loss)(params["actor"], critic, batch)
            grads, norm = gradients.clip(grads, hp.max_grad_norm, self.actor.separate, self.env.num_agents)
            updates, actor_optimizer = gradients.adam(hp).update(grads, optimizer["actor"])
            actor = jax.tree.map(lambda p, u: p - hp.learning_rate * u, params["actor"], updates)
            params = {"actor": actor, "critic": critic}
            target = jax.tree.map(lambda t, p: t + hp.target_rate * (p - t), target, params)
            optimizer = {"actor": actor_optimizer, "critic": critic_optimizer}
            return Trained(params, target, optimizer), (critic_metrics, metrics | {"actor_grad_norm": norm})

        keys = jax.random.split(key, (config.gradient_steps // config.policy_delay, config.policy_delay, 2))
        trained, (critic_metrics, actor_metrics) = jax.lax.scan(block, trained, keys)
        metrics = {name: jnp.mean(x, axis=(0, 1)) for name, x in critic_metrics.items()}
        return trained, metrics | {name: jnp.mean(x, axis=0) for name, x in actor_metrics.items()}

    def _sample(self, ring: Replay, key: jax.Array) -> Batch:
        stored: Stored = replay.sample(ring, key, self.config.batch_size)
        (obs, state), (next_obs, next_state) = (
            self._observe(seen) if self.config.replay_of == "states" else (jnp.swapaxes(seen[0], 0, 1), seen[1])
            for seen in (stored.before, stored.after)
        )
        action = jnp.swapaxes(stored.action, 0, 1)
        return Batch(obs, state, action, stored.reward.T, stored.bootstrap, next_obs, next_state)

    def target_value(self, target: Any, batch: Batch, key: jax.Array, hp: MATD3Hyperparameters) -> jax.Array:
        """y = r + gamma (1 - terminated) min_k Q'_k(s', a'), [R, B], with smoothed actions a'."""
        noise = hp.target_noise * jax.random.normal(key, batch.action.shape)
        noise = jnp.clip(noise, -hp.target_noise_clip, hp.target_noise_clip)
        weights = self.actor.weights(target["actor"])
        action = self._act(weights, batch.next_obs, noise)
        x = self._critic_input(batch.next_obs, batch.next_state, action[None])
        values = jnp.min(self.critic.values(target["critic"], x), axis=0)
        return jax.lax.stop_gradient(self._rewards(batch) + batch.bootstrap * values)

    def critic_loss(self, params: Any, goal: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        """sum_k mean (Q_k(s, a) - y)^2 over rows and minibatch, and what to watch."""
        x = self._critic_input(batch.obs, batch.state, batch.action[None])
        values = self.critic.values(params, x)  # [2, R, B]
        error = values - goal
        total = jnp.sum(jnp.mean(jnp.square(error), axis=(1, 2)))
        return total, {
            "critic_loss": total,
            "q": jnp.mean(values, axis=(0, 2)),
            "td_error": jnp.mean(jnp.abs(error), axis=(0, 2)),
        }

    def actor_loss(self, params: Any, critic: Any, batch: Batch) -> tuple[jax.Array, Metrics]:
        """The mean over agents of L_i, where critics hold still, and what to watch."""
        own = self._act(self.actor.weights(params), batch.obs)  # [N, B, A]
        first = self.critic.first(critic)
        agents = self.env.num_agents
        if self.config.critic == "team" and self.config.others == "policy":
            # All agents' losses are the same then, and one pass has every agent's gradient.
            values = self.critic.value(first, self._critic_input(batch.obs, batch.state, own[None]))
            total = -jnp.mean(values) / agents
        else:
            others = own if self.config.others == "policy" else batch.action
            mine = jnp.eye(agents, dtype=bool)[:, :, None, None]
            rows = jnp.where(mine, own[None], jax.lax.stop_gradient(others)[None])  # [N, N, B, A]
            values = self.critic.value(first, self._critic_input(batch.obs, batch.state, rows))
            total = -jnp.mean(values)
        saturated = jnp.sum((jnp.abs(own) > 0.99) & self.act_mask[:, None], axis=(1, 2))
        return total, {
            "actor_loss": -jnp.mean(values),
            "saturated_actions": saturated / (own.shape[1] * jnp.sum(jnp.asarray(self.act_mask), axis=1)),
        }

    def regularise(
        self, which: str, params: Any, loss: jax.Array, hp: MATD3Hyperparameters
    ) -> tuple[jax.Array, Metrics]:
        """The loss of "actor" or "critic" with what a method adds to it for these parameters, and what to watch."""
        return loss, {}

    def _critic_input(self, obs: jax.Array, state: jax.Array | None, actions: jax.Array) -> jax.Array:
        """What critics see without padding, [N or 1, B, I]: from obs [N, B, O], state [B, G] and joint actions
        [N or 1, N, B, A]."""
        rows, agents, batch, size = actions.shape
        if state is None:
            state = jnp.swapaxes(obs, 0, 1).reshape(batch, -1)[:, np.flatnonzero(self._obs_mask)]
        joint = jnp.swapaxes(actions, 1, 2).reshape(rows, batch, agents * size)[..., np.flatnonzero(self.act_mask)]
        return jnp.concatenate([jnp.broadcast_to(state, (rows, *state.shape)), joint], axis=-1)

    def _rewards(self, batch: Batch) -> jax.Array:
        """What critics learn the sum of, [R, B]."""
        team = self.config.critic == "team"
        return jnp.mean(batch.reward, axis=0, keepdims=True) if team else batch.reward


def n_step_returns(
    reward: jax.Array, terminated: jax.Array, done: jax.Array, discount: jax.Array | float, n_step: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Discounted sums of `n_step` rewards, of fewer where an episode ends or the rollout does.

        R_t = sum_{k < m} gamma^k r_{t + k},   b_t = gamma^m, or 0 where step t + m - 1 terminated,   1 <= m <= n_step

    reward [T, N, E]; terminated, done bool[T, E]. Returns R [T, N, E], b [T, E] and the steps t + m - 1, int32[T, E].
    """
    time = reward.shape[0]
    step = jnp.arange(time, dtype=jnp.int32)

    def add(loop: tuple, k: jax.Array) -> tuple[tuple, None]:
        total, factor, alive, end = loop
        now = jnp.minimum(step + k, time - 1)
        alive = alive & (step + k < time)[:, None]
        total = total + jnp.where(alive, factor, 0.0)[:, None] * reward[now]
        factor = jnp.where(alive, factor * discount, factor)
        end = jnp.where(alive, now[:, None], end)
        return (total, factor, alive & ~done[now], end), None

    start = (
        jnp.zeros_like(reward),
        jnp.ones(done.shape, jnp.float32),
        jnp.ones_like(done),
        jnp.zeros(done.shape, jnp.int32),
    )
    (total, factor, _, end), _ = jax.lax.scan(add, start, jnp.arange(n_step, dtype=jnp.int32))
    return total, jnp.where(jnp.take_along_axis(terminated, end, axis=0), 0.0, factor), end
