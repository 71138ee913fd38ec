"""Wrappers: statistics against hand-kept sums, padding, ids, composition in any order."""

import copy
import dataclasses
import itertools
import pickle
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax.base import MultiAgentEnv, Outcome, State, pytree, start_clock
from envs_jax.games.matching import Specialisation
from envs_jax.spaces import Box, Discrete
from envs_jax.testing import check_env
from envs_jax.wrappers import AgentID, EpisodeStatistics, PadObservations

KEY = jax.random.key(0)
WRAPPERS = [EpisodeStatistics, PadObservations, AgentID]


@pytree
class UnequalState(State):
    last: jax.Array  # int32[3], the last actions


@dataclass(frozen=True)
class Unequal(MultiAgentEnv):
    """Three agents with 1, 2 and 3 numbers to see and 2, 3 and 4 actions; an action is its own reward.

    The episode terminates when agent 2 takes its last action.
    """

    num_agents: int = 3
    max_steps: int | None = 6
    extra: str = "something no other environment has"

    def init(self, key):
        return UnequalState(**start_clock(), last=jnp.zeros(3, jnp.int32))

    def transition(self, key, state, actions):
        reward = actions.astype(jnp.float32) * jnp.array([1.0, 10.0, 100.0], jnp.float32)
        outcome = Outcome(reward, actions[2] == 3, jnp.asarray(False), {"action": actions})
        return state.replace(last=actions), outcome

    def observe(self, state):
        return jnp.tril(jnp.broadcast_to(state.last[:, None].astype(jnp.float32) + 1.0, (3, 3)))

    def observation_space(self, agent=None):
        size = 3 if agent is None else 1 + self.agents.index(agent)
        return Box(tuple(range(-size, 0)), 9.0, (size,))

    def action_space(self, agent=None):
        return Discrete(4 if agent is None else 2 + self.agents.index(agent))

    def global_state(self, state):
        return state.last.astype(jnp.float32)

    def render(self, state):
        return np.full((2, 2, 3), int(state.step), np.uint8)


def test_statistics_equal_sums_kept_by_hand():
    env = EpisodeStatistics(Unequal())
    rng = np.random.default_rng(0)
    sizes = [2, 3, 4]

    def body(state, x):
        key, actions = x
        state, outcome, _ = env.advance_and_reset(key, state, actions)
        return state, outcome

    actions = np.stack([rng.integers(0, size, 60) for size in sizes], axis=1).astype(np.int32)  # (T, N)
    state, outcome = jax.jit(lambda: jax.lax.scan(body, env.init(KEY), (jax.random.split(KEY, 60), actions)))()

    total, length, ends = np.zeros(3), 0, 0
    for t in range(60):
        total, length = total + actions[t] * [1, 10, 100], length + 1
        ended = actions[t, 2] == 3 or length == 6
        info = {name: value[t] for name, value in outcome.info.items()}
        np.testing.assert_array_equal(info["episode_ended"], np.full(3, ended, np.float32))
        np.testing.assert_array_equal(info["episode_return"], total * ended)
        np.testing.assert_array_equal(info["episode_length"], np.full(3, length * ended))
        np.testing.assert_array_equal(info["action"], actions[t])
        if ended:
            total, length, ends = np.zeros(3), 0, ends + 1
    assert ends > 5
    np.testing.assert_array_equal(state.episode_return, total)
    np.testing.assert_array_equal(state.episode_length, np.full(3, length))
    assert all(outcome.info[f"episode_{x}"].dtype == jnp.float32 for x in ("return", "length", "ended"))


def test_rewards_and_ends_stay_those_of_the_wrapped_environment():
    env, actions = Unequal(), jnp.array([1, 2, 3])
    wrapped = AgentID(EpisodeStatistics(PadObservations(env)))
    _, outcome = wrapped.advance(KEY, wrapped.init(KEY), actions)
    np.testing.assert_array_equal(outcome.reward, [1, 20, 300])
    assert outcome.terminated and not outcome.truncated


def test_time_limit_and_clock_are_the_wrapped_environments():
    env = EpisodeStatistics(AgentID(dataclasses.replace(Unequal(), max_steps=2)))
    assert (env.max_steps, env.num_agents) == (2, 3)
    state = env.init(KEY)
    for step in (1, 2):
        state, outcome = env.advance(KEY, state, jnp.zeros(3, jnp.int32))
        assert (int(state.step), bool(outcome.truncated)) == (step, step == 2)
        assert (int(state.env_state.step), bool(state.env_state.done)) == (step, step == 2)


def test_statistics_refuse_to_be_recorded_twice():
    with pytest.raises(ValueError, match="allowed: an environment without EpisodeStatistics"):
        EpisodeStatistics(AgentID(EpisodeStatistics(Unequal())))


def test_padding_gives_all_agents_the_stacked_spaces():
    env = PadObservations(Unequal())
    assert {space.shape for space in env.observation_spaces.values()} == {(3,)}
    assert set(env.action_spaces.values()) == {Discrete(4)}
    obs, state = env.reset(KEY)
    np.testing.assert_array_equal(obs["agent_0"], [1, 0, 0])
    masks = env.get_avail_actions(state)
    assert [mask.tolist() for mask in masks.values()] == [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert env.masks_actions

    _, _, rewards, _, _ = env.step(KEY, state, dict.fromkeys(env.agents, jnp.array(2)))
    assert [float(r) for r in rewards.values()] == [1, 20, 200]  # agent 0 has no action 2; its last one is 1

    only_obs = PadObservations(Unequal(), pad_actions=False)
    assert [space.n for space in only_obs.action_spaces.values()] == [2, 3, 4]


def test_agent_id_stands_in_front_of_every_observation():
    for env in (AgentID(Unequal()), AgentID(PadObservations(Unequal())), PadObservations(AgentID(Unequal()))):
        obs = env.observe(env.init(KEY))
        np.testing.assert_array_equal(obs, np.concatenate([np.eye(3), np.tril(np.ones((3, 3)))], axis=1))
    env = AgentID(Unequal())
    obs, _ = env.reset(KEY)
    assert [x.tolist() for x in obs.values()] == [[1, 0, 0, 1], [0, 1, 0, 1, 1], [0, 0, 1, 1, 1, 1]]
    low, high = env.observation_space("agent_1").bounds()
    assert (low.tolist(), high.tolist()) == ([0, 0, 0, -2, -1], [1, 1, 1, 9, 9])
    np.testing.assert_array_equal(env.global_state(env.init(KEY)), np.zeros(3))


def test_agent_id_refuses_what_is_not_a_vector():
    @dataclass(frozen=True)
    class Image(Unequal):
        def observation_space(self, agent=None):
            return Box(0.0, 1.0, (4, 4, 3))

    @dataclass(frozen=True)
    class Category(Unequal):
        def observation_space(self, agent=None):
            return Discrete(3)

    for env in (Image(), Category()):
        with pytest.raises(ValueError, match="allowed: a Box of floats with one dimension"):
            AgentID(env)


def test_wrappers_are_values_and_forward_what_they_do_not_change():
    env = AgentID(EpisodeStatistics(Unequal()))
    for other in (copy.deepcopy(env), pickle.loads(pickle.dumps(env)), dataclasses.replace(env)):
        assert other == env and hash(other) == hash(env)
    assert env != AgentID(Unequal()) and env != AgentID(EpisodeStatistics(Unequal(max_steps=5)))
    assert env.name == "Unequal"
    assert env.extra == "something no other environment has"
    with pytest.raises(AttributeError):
        _ = env.nothing_like_this
    state, _ = env.advance(KEY, env.init(KEY), jnp.zeros(3, jnp.int32))
    assert env.render(state).tolist() == Unequal().render(env.unwrap(env.unwrap(state).env_state)).tolist()


def test_state_can_be_donated_from_the_start():
    env = EpisodeStatistics(Unequal())
    state = env.init(KEY)
    leaves = jax.tree.leaves(state)
    assert len({id(leaf) for leaf in leaves}) == len(leaves)  # one buffer in two places cannot be donated


@pytest.mark.parametrize(
    "order", list(itertools.permutations(WRAPPERS)), ids=lambda order: "-".join(w.__name__ for w in order)
)
def test_any_order_keeps_the_contract(order):
    env = Unequal()
    for wrapper in order:
        env = wrapper(env)
    # all six orders are traced; the first is also compiled a second time, under x64
    check_env(env, num_envs=2, x64=order == tuple(WRAPPERS))


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_each_alone_keeps_the_contract(wrapper):
    check_env(wrapper(Specialisation()), x64=False)
