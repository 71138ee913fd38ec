"""`check_env` must pass a sound environment and name what is wrong with each of many broken ones."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax.base import MultiAgentEnv, Outcome, State, pytree, start_clock
from envs_jax.spaces import Box, Discrete
from envs_jax.testing import check_env, check_import, check_jaxmarl_wrappers


@pytree
class WalkState(State):
    position: jax.Array  # float32[N]


@dataclass(frozen=True)
class Walk(MultiAgentEnv):
    """A sound environment: agents walk on a line and see where they are; a wall is in everybody's way."""

    num_agents: int = 2
    max_steps: int | None = 50
    goal: float = 3.0

    def init(self, key):
        return WalkState(**start_clock(), position=jax.random.uniform(key, (self.num_agents,), jnp.float32))

    def transition(self, key, state, actions):
        noise = 0.1 * jax.random.normal(key, (self.num_agents,), jnp.float32)
        position = jnp.clip(state.position + actions.astype(jnp.float32) - 1.0 + noise, -9.0, 9.0)
        terminated = jnp.any(jnp.abs(position) > self.goal)
        return state.replace(position=position), Outcome(
            position, terminated, jnp.asarray(False), {"distance": jnp.abs(position)}
        )

    def observe(self, state):
        return jnp.stack([state.position, jnp.ones_like(state.position)], axis=1)

    def observation_space(self, agent=None):
        return Box(-9.0, 9.0, (2,))

    def action_space(self, agent=None):
        return Discrete(3)

    def render(self, state):
        return np.zeros((4, 6, 3), np.uint8)


@dataclass(frozen=True)
class Unequal(Walk):
    """Sound as well: agents differ in observations (2 and 1 numbers), actions (3 and 2) and masks."""

    def observe(self, state):
        return super().observe(state).at[1, 1].set(0.0)

    def observation_space(self, agent=None):
        return Box(-9.0, 9.0, (1,)) if agent == "agent_1" else Box(-9.0, 9.0, (2,))

    def action_space(self, agent=None):
        return Discrete(2) if agent == "agent_1" else Discrete(3)

    def action_mask(self, state):
        return super().action_mask(state).at[0, 0].set(state.position[0] > -1)


@dataclass(frozen=True)
class Continuous(Walk):
    """Sound as well: continuous actions, kept in their box inside."""

    def transition(self, key, state, actions):
        return super().transition(key, state, jnp.clip(actions[:, 0], -1.0, 1.0) + 1.0)

    def action_space(self, agent=None):
        return Box(-1.0, 1.0, (1,))


@dataclass(frozen=True)
class KeyInState(Walk):
    """Sound as well: its state holds a key, which is typed or not as the caller's are."""

    def init(self, key):
        return KeyState(**start_clock(), position=jnp.zeros(2, jnp.float32), key=key)

    def transition(self, key, state, actions):
        state = state.replace(key=jax.random.fold_in(state.key, 1))
        return super().transition(state.key, state, actions)


@pytree
class KeyState(WalkState):
    key: jax.Array


@pytest.mark.parametrize("env", [Walk(), Unequal(), Continuous(), KeyInState(), Walk(num_agents=1, max_steps=None)])
def test_sound_environments_pass(env):
    check_env(env)


def test_jaxmarl_wrappers_accept_sound_environments():
    pytest.importorskip("jaxmarl")
    for env in (Unequal(), Continuous()):
        check_jaxmarl_wrappers(env)


# --- Broken environments: each breaks one rule ---

BROKEN = {}


def broken(message, **options):
    """Register a class whose check must fail with a message that contains `message`."""

    def register(cls):
        BROKEN[cls.__name__] = (cls, message, options)
        return cls

    return register


def changed(outcome, **changes):
    return outcome._replace(**changes)


@broken("value semantics: not frozen")
class NotFrozen(Walk):
    __setattr__ = object.__setattr__


@broken("value semantics: an environment with the same settings is not equal")
class ByIdentity(Walk):
    __eq__ = object.__eq__
    __hash__ = object.__hash__


@broken("value semantics: raised TypeError")
@dataclass(frozen=True)
class Unhashable(Walk):
    weights: list = dataclasses.field(default_factory=lambda: [1.0, 2.0])


@broken("names: name is 'CompetitiveWalk'")
class NameWithSwitch(Walk):
    name: ClassVar[str] = "CompetitiveWalk"


@broken("names: agents is")
class WrongAgents(Walk):
    @property
    def agents(self):
        return ["agent_0", "agent_0"]


@broken("names: agent_classes is")
class AgentClassesAsMethod(Walk):
    def agent_classes(self):
        return {}


@broken("spaces: observation space of agent_1")
class SpaceExceedsRow(Walk):
    def observation_space(self, agent=None):
        return Box(-9.0, 9.0, (3,)) if agent == "agent_1" else Box(-9.0, 9.0, (2,))


@broken("observation: observe(state) is float32[2, 2]; required: float32[2, 3]")
class WrongObservationShape(Walk):
    def observation_space(self, agent=None):
        return Box(-9.0, 9.0, (3,))


@broken("observation: observe(state) is int32")
class WrongObservationDtype(Walk):
    def observe(self, state):
        return super().observe(state).astype(jnp.int32)


@broken("reward: reward is float32[]; required: float32[2]")
class ScalarReward(Walk):
    def transition(self, key, state, actions):
        state, outcome = super().transition(key, state, actions)
        return state, changed(outcome, reward=outcome.reward.sum())


@broken("reward: reward is int32[2]")
class IntegerReward(Walk):
    def transition(self, key, state, actions):
        state, outcome = super().transition(key, state, actions)
        return state, changed(outcome, reward=outcome.reward.astype(jnp.int32))


@broken("no weak types: reward")
class WeakReward(Walk):
    def transition(self, key, state, actions):
        state, outcome = super().transition(key, state, actions)
        return state, changed(outcome, reward=jnp.where(actions > 0, 1.0, 0.0))


@broken("no weak types: state")
class WeakState(Walk):
    def init(self, key):
        return super().init(key).replace(position=jnp.where(jnp.arange(2) > 0, 1.0, 0.0))


@broken("state: state.step is float32[]")
class FloatClock(Walk):
    def init(self, key):
        return super().init(key).replace(step=jnp.zeros((), jnp.float32))


@broken("state structure: init and")
class StateChangesDtype(Walk):
    def init(self, key):
        return super().init(key).replace(position=jnp.zeros(2, jnp.int32))

    def advance_and_reset(self, key, state, actions):
        last_state, outcome = self.advance(key, state, actions)
        return last_state, outcome, last_state

    def step(self, key, state, actions, reset_state=None):
        return self.step_env(key, state, actions)


@broken("terminated is bool[2]; required: bool[]")
class TerminatedPerAgent(Walk):
    def advance(self, key, state, actions):
        state, outcome = super().advance(key, state, actions)
        return state, changed(outcome, terminated=jnp.stack([outcome.terminated] * 2))

    def advance_and_reset(self, key, state, actions):
        state, outcome = self.advance(key, state, actions)
        return state, outcome, state


@broken("info: 'mean' is float32[]; required: float32[2]")
class ScalarInfo(Walk):
    def transition(self, key, state, actions):
        state, outcome = super().transition(key, state, actions)
        return state, changed(outcome, info={"mean": outcome.reward.mean()})


@broken("info: 'nested' is dict; required: an array")
class NestedInfo(Walk):
    def transition(self, key, state, actions):
        state, outcome = super().transition(key, state, actions)
        return state, changed(outcome, info={"nested": {"distance": outcome.reward}})


@broken("info: step_env has keys")
class InfoKeysVary(Walk):
    calls: ClassVar[list] = []

    def transition(self, key, state, actions):
        state, outcome = super().transition(key, state, actions)
        self.calls.append(None)
        return state, changed(outcome, info={f"call_{len(self.calls)}": outcome.reward})


@broken("info: step_env has keys")
class InfoIsSharedBetweenCalls(Walk):
    shared: ClassVar[dict] = {}

    def _outcome_dicts(self, outcome):
        rewards, dones, infos = super()._outcome_dicts(outcome)
        self.shared.update(infos)
        return rewards, dones, self.shared


@broken("step: raised TypeError")
class RefusesVectorActions(Walk):
    def stack_actions(self, actions):
        if any(action.shape != () for action in actions.values()):
            raise TypeError("scalars only")
        return super().stack_actions(actions)


@broken("init (PRNGKey)")
class TypedKeysOnly(Walk):
    def init(self, key):
        assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key), "typed keys only"
        return super().init(key)


@broken("(x64): ")
class DefaultDtypeInState(Walk):
    def init(self, key):
        return super().init(key).replace(position=jax.random.uniform(key, (2,)))


@broken("determinism (x64, PRNGKey)")
class DefaultDtypeInDraw(Walk):
    def init(self, key):
        return super().init(key).replace(position=jax.random.uniform(key, (2,)).astype(jnp.float32))


@broken("determinism (x64, PRNGKey)")
class DrawsFromNumPy(Walk):
    def init(self, key):
        return super().init(key).replace(position=jnp.asarray(np.random.uniform(size=2), jnp.float32))


@broken("determinism: the same key gave another trajectory")
class RewardOutOfNowhere(Walk):
    def transition(self, key, state, actions):
        state, outcome = super().transition(key, state, actions)
        description = jax.ShapeDtypeStruct((2,), jnp.float32)
        noise = jax.pure_callback(lambda _: np.random.rand(2).astype("f4"), description, key, vmap_method="sequential")
        return state, changed(outcome, reward=outcome.reward + noise)


@broken("no retrace")
class DifferentHashEachTime(Walk):
    def __hash__(self):
        return 0  # equal objects do hash alike ...

    def __eq__(self, other):
        return self.max_steps > 7 or self is other  # ... but the shortened one is not equal to its copy


@broken("observation: not finite")
class NotFinite(Walk):
    def observe(self, state):
        return super().observe(state) / (state.step < 3).astype(jnp.float32)

    def observation_space(self, agent=None):
        return Box(-np.inf, np.inf, (2,))


@broken("reward: not finite")
class InfiniteReward(Walk):
    def transition(self, key, state, actions):
        state, outcome = super().transition(key, state, actions)
        return state, changed(outcome, reward=outcome.reward / (state.step < 3).astype(jnp.float32))


@broken("observation: outside the agent's space")
class LeavesSpace(Walk):
    def observation_space(self, agent=None):
        return Box(-1.5, 1.5, (2,))


@broken("observation: not padded with zeros")
class PadsWithOnes(Unequal):
    def observe(self, state):
        return super().observe(state).at[1, 1].set(1.0)


@broken("mask: action_mask(state) is float32")
class FloatMask(Walk):
    def action_mask(self, state):
        return super().action_mask(state).astype(jnp.float32)


@broken("mask: empty for an agent")
class EmptyMask(Walk):
    def action_mask(self, state):
        return super().action_mask(state) & (state.step < 3)


@broken("mask: allows actions that the agent's space lacks")
class MaskTooWide(Unequal):
    def action_mask(self, state):
        return jnp.ones((2, 3), jnp.bool_)


@broken("mask: rules out actions although masks_actions is False")
class HiddenMask(Walk):
    masks_actions = False

    def action_mask(self, state):
        return super().action_mask(state).at[0, 0].set(False)


@broken("outcome: terminated and truncated at once")
class BothEnds(Walk):
    def advance(self, key, state, actions):
        state, outcome = super().advance(key, state, actions)
        return state, changed(outcome, terminated=outcome.done, truncated=outcome.done)


@broken("clock: state.step does not count steps")
class ClockStands(Walk):
    def advance(self, key, state, actions):
        next_state, outcome = super().advance(key, state, actions)
        return next_state.replace(step=jnp.where(outcome.done, next_state.step, state.step)), outcome


@broken("clock: state.done is not what the outcome says")
class ForgetsDone(Walk):
    def advance(self, key, state, actions):
        state, outcome = super().advance(key, state, actions)
        return state.replace(done=jnp.asarray(False)), outcome


@broken("clock: an episode goes on at max_steps")
class IgnoresTimeLimit(Walk):
    def advance(self, key, state, actions):
        next_state, outcome = self.transition(key, state, actions)
        terminated = state.step % 9 == 8
        outcome = changed(outcome, terminated=terminated, truncated=jnp.asarray(False))
        return next_state.replace(step=state.step + 1, done=terminated), outcome


@broken("clock: done or step is set in a new episode")
class StartsLate(Walk):
    def init(self, key):
        return super().init(key).replace(step=jnp.ones((), jnp.int32))


@broken("episode ends: no environment ended two episodes", num_steps=5)
@dataclass(frozen=True)
class EndsTooRarely(Walk):
    goal: float = 100.0


@broken("auto-reset: step does not start afresh after an end")
class NeverResets(Walk):
    def step(self, key, state, actions, reset_state=None):
        key_step, _ = jax.random.split(key)
        return self.step_env(key_step, state, actions)


@broken("auto-reset: step differs from step_env before an end")
class StepIsAnotherGame(Walk):
    def step(self, key, state, actions, reset_state=None):
        obs, *rest = super().step(key, state, actions, reset_state)
        return {agent: jnp.clip(row, 0.0, 1.0) for agent, row in obs.items()}, *rest


@broken("auto-reset: step ignores the given reset_state")
class IgnoresResetState(Walk):
    def step(self, key, state, actions, reset_state=None):
        return super().step(key, state, actions)


@broken("auto-reset: last_state is not the state that step_env gives")
class LosesLastState(Walk):
    def advance_and_reset(self, key, state, actions):
        next_state, outcome, _ = super().advance_and_reset(key, state, actions)
        return next_state, outcome, next_state


@broken("dictionaries: step: dones have keys")
class NoAllInStep(Walk):
    def step(self, key, state, actions, reset_state=None):
        obs, state, rewards, dones, infos = super().step(key, state, actions, reset_state)
        return obs, state, rewards, {agent: dones[agent] for agent in self.agents}, infos


@broken("dictionaries: reward is not the agent's")
class SwapsRewards(Walk):
    def _outcome_dicts(self, outcome):
        rewards, dones, infos = super()._outcome_dicts(outcome)
        return dict(zip(self.agents, reversed(rewards.values()), strict=True)), dones, infos


@broken("global state: global_state is float32[2, 2]")
class GlobalStateNotFlat(Walk):
    def global_state(self, state):
        return self.observe(state)


@broken("render: gave float32[4, 6, 3]")
class FloatPicture(Walk):
    def render(self, state):
        return np.zeros((4, 6, 3), np.float32)


@broken("render: raised IndexError")
class RenderFails(Walk):
    def render(self, state):
        return np.zeros((4, 6, 3), np.uint8)[9]


@pytest.mark.parametrize("name", BROKEN)
def test_broken_environments_are_caught(name):
    cls, message, options = BROKEN[name]
    with pytest.raises(AssertionError) as error:
        check_env(cls(), **({"x64": "x64" in message or "PRNGKey" in message} | options))
    assert message in str(error.value)


def test_all_problems_are_reported_at_once():
    @dataclass(frozen=True)
    class Twice(WrongObservationShape):
        def transition(self, key, state, actions):
            state, outcome = super().transition(key, state, actions)
            return state, changed(outcome, reward=outcome.reward.sum())

    with pytest.raises(AssertionError, match="(?s)observe.state.*reward is"):
        check_env(Twice())


def test_check_import_accepts_this_package_and_catches_side_effects(tmp_path, monkeypatch):
    assert check_import() < 10
    (tmp_path / "loud_env.py").write_text("import jax.numpy as jnp, flax\nprint('hello')\nZERO = jnp.zeros(())\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with pytest.raises(AssertionError) as error:
        check_import(["loud_env"])
    for part in ("started a JAX backend", "printed 'hello", "imported flax"):
        assert part in str(error.value)
    with pytest.raises(AssertionError, match="No module named"):
        check_import(["no_such_module_here"])
