"""Every registered environment keeps the contract; unit tests of what the contract is made of."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs_jax
from envs_jax.base import MultiAgentEnv, Outcome, State, flat_box, pytree, select, start_clock
from envs_jax.mamujoco import ALIASES, IDS
from envs_jax.particles import BPS_GROUPS
from envs_jax.registry import _REGISTRY
from envs_jax.spaces import Box, Discrete
from envs_jax.testing import check_env, check_jaxmarl_wrappers

KEY = jax.random.key(0)
# All of MuJoCo's ids are one class, which `mamujoco/test_env.py` holds to the contract; `bps-1` to `bps-4` are sizes of
# `blind_particle_spread`.
CHECKED = [env_id for env_id in envs_jax.registered() if env_id not in IDS | ALIASES | BPS_GROUPS]


@pytest.mark.parametrize("env_id", CHECKED)
def test_registered_environments(env_id):
    check_env(envs_jax.make(env_id))


def test_jaxmarl_wrappers():
    pytest.importorskip("jaxmarl")
    check_jaxmarl_wrappers(envs_jax.make("specialisation"))


@pytest.mark.parametrize("env_id", envs_jax.registered())
def test_ids_avoid_the_words_that_jaxmarl_switches_on(env_id):
    assert not any(word in env_id for word in ("mpe", "smax", "overcooked", "hanabi"))


# --- base ---


@pytree
class CountState(State):
    total: jax.Array  # float32[N]


@dataclass(frozen=True)
class Count(MultiAgentEnv):
    """Agents add up what they do; the episode terminates at a total of `goal`."""

    num_agents: int = 2
    max_steps: int | None = 4
    goal: float = 100.0

    def init(self, key):
        return CountState(**start_clock(), total=jax.random.uniform(key, (self.num_agents,), jnp.float32))

    def transition(self, key, state, actions):
        state = state.replace(total=state.total + actions[:, 0])
        return state, Outcome(actions[:, 0], state.total.sum() > self.goal, jnp.asarray(False), {})

    def observe(self, state):
        return state.total[:, None] * jnp.array([1.0, 2.0], jnp.float32)

    def observation_space(self, agent=None):
        return flat_box(2)

    def action_space(self, agent=None):
        return Box(0.0, 60.0, (1,))


ONE, MANY = jnp.ones((2, 1), jnp.float32), jnp.full((2, 1), 60.0, jnp.float32)


def test_advance_keeps_the_clock_and_cuts_at_the_limit():
    env = Count()
    state = env.init(KEY)
    for step in range(1, 5):
        state, outcome = env.advance(KEY, state, ONE)
        assert int(state.step) == step
        assert bool(outcome.truncated) == bool(state.done) == (step == 4) and not outcome.terminated
    endless = dataclasses.replace(env, max_steps=None)
    state, outcome = endless.advance(KEY, state, ONE)
    assert int(state.step) == 5 and not outcome.done


def test_termination_at_the_limit_is_not_a_truncation():
    env = Count(max_steps=1)
    _, outcome = env.advance(KEY, env.init(KEY), MANY)
    assert outcome.terminated and not outcome.truncated and outcome.done


def test_advance_and_reset_keeps_the_last_state():
    env = Count(max_steps=2)
    start = env.init(KEY)
    middle, outcome, last = env.advance_and_reset(KEY, start, ONE)
    np.testing.assert_array_equal(middle.total, last.total)
    following, outcome, last = env.advance_and_reset(KEY, middle, ONE)
    np.testing.assert_allclose(last.total, start.total + 2, rtol=1e-6)
    np.testing.assert_array_equal(following.total, env.init(jax.random.split(KEY)[1]).total)
    assert outcome.truncated and last.done and not following.done and int(following.step) == 0


def test_step_resets_and_step_env_does_not():
    env = Count(max_steps=1)
    obs, state = env.reset(KEY)
    actions = {"agent_0": jnp.array([1.0]), "agent_1": jnp.array([2.0])}
    final_obs, final, rewards, dones, infos = env.step_env(KEY, state, actions)
    np.testing.assert_allclose(final_obs["agent_1"], obs["agent_1"] + jnp.array([2.0, 4.0]), rtol=1e-6)
    assert {name: bool(done) for name, done in dones.items()} == {"agent_0": True, "agent_1": True, "__all__": True}
    assert {name: float(reward) for name, reward in rewards.items()} == {"agent_0": 1.0, "agent_1": 2.0}
    assert infos["truncated"].tolist() == [True, True] and infos["terminated"].tolist() == [False, False]
    new_obs, new_state, *_ = env.step(KEY, state, actions)
    assert final.done and not new_state.done
    np.testing.assert_array_equal(new_obs["agent_0"], env.reset(jax.random.split(KEY)[1])[0]["agent_0"])
    to_given, *_ = env.step(KEY, state, actions, state)
    np.testing.assert_array_equal(to_given["agent_0"], obs["agent_0"])


def test_discrete_actions_of_either_shape_and_unequal_boxes_are_stacked():
    @dataclass(frozen=True)
    class Moves(Count):
        def action_space(self, agent=None):
            return Discrete(3)

    for shape in ((), (1,)):
        stacked = Moves().stack_actions({"agent_0": jnp.full(shape, 2), "agent_1": jnp.full(shape, 1)})
        assert stacked.tolist() == [2, 1] and stacked.dtype == jnp.int32

    @dataclass(frozen=True)
    class Arms(Count):
        def action_space(self, agent=None):
            return Box(-1.0, 1.0, (1,) if agent == "agent_1" else (3,))

    stacked = Arms().stack_actions({"agent_0": jnp.ones(3), "agent_1": jnp.ones(1)})
    assert stacked.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_masks_need_discrete_actions():
    with pytest.raises(ValueError, match="action_mask is for discrete actions"):
        Count().action_mask(Count().init(KEY))


def test_global_state_is_all_observations_in_a_row():
    env = Count()
    state = env.init(KEY)
    np.testing.assert_array_equal(env.world_state(state), env.observe(state).reshape(-1))


def test_select_takes_whole_trees():
    state = Count().init(KEY)
    other = state.replace(total=state.total + 1, done=~state.done)
    for pred, expected in ((True, state), (False, other)):
        jax.tree.map(np.testing.assert_array_equal, select(jnp.asarray(pred), state, other), expected)


def test_names_follow_the_class_and_settings_the_values():
    assert Count.name == "Count" and Count() == Count() and hash(Count()) == hash(Count())
    assert Count() != Count(goal=2.0)
    assert Count().agent_classes == {"agent": ["agent_0", "agent_1"]}
    with pytest.raises(dataclasses.FrozenInstanceError):
        Count().goal = 3.0
    with pytest.raises(NotImplementedError, match="Count has no render"):
        Count().render(None)


@pytest.mark.parametrize(
    ("field", "value"), [("num_agents", 0), ("num_agents", 4.0), ("max_steps", 0), ("max_steps", -3)]
)
def test_base_refuses_wrong_settings(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}; allowed"):
        Count(**{field: value})


def test_visualiser_hooks_draw_the_picture():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    env = envs_jax.make("specialisation")
    state = env.init(KEY)
    figure, ax = pyplot.subplots()
    image = env.init_render(ax, state)
    later, _ = env.advance(KEY, state, jnp.array([0, 1]))
    env.update_render(image, later)
    np.testing.assert_array_equal(image.get_array(), env.render(later))
    pyplot.close(figure)


# --- spaces ---


def test_discrete():
    space = Discrete(3)
    draws = jax.vmap(space.sample)(jax.random.split(KEY, 200))
    assert draws.dtype == jnp.int32 and set(draws.tolist()) == {0, 1, 2}
    assert [bool(space.contains(jnp.array(x))) for x in (-1, 0, 2, 3)] == [False, True, True, False]
    assert not space.contains(jnp.array(1.0)) and not space.contains(jnp.array([1]))
    assert space == Discrete(3) != Discrete(4) and hash(space) == hash(Discrete(3))
    with pytest.raises(ValueError, match="n is 0; allowed"):
        Discrete(0)


def test_box():
    space = Box(low=(-1, 0), high=(1, 5), shape=(2,))
    draws = np.asarray(jax.vmap(space.sample)(jax.random.split(KEY, 500)))
    assert draws.dtype == np.float32 and (draws >= [-1, 0]).all() and (draws <= [1, 5]).all()
    assert (draws.min(0) < [-0.9, 0.1]).all() and (draws.max(0) > [0.9, 4.9]).all()
    inside, outside = jnp.array([0.0, 4.0], jnp.float32), jnp.array([0.0, 6.0], jnp.float32)
    assert space.contains(inside) and not space.contains(outside)
    assert not space.contains(inside[None]) and not space.contains(inside.astype(jnp.int32))
    assert space == Box((-1.0, 0.0), (1.0, 5.0), (2,)) and hash(space) == hash(Box((-1.0, 0.0), (1.0, 5.0), (2,)))
    with pytest.raises(ValueError, match="low holds 3 values; allowed: one, or 2"):
        Box((0, 0, 0), 1.0, (2,))


def test_box_of_integers_and_unbounded_box():
    pixels = Box(0, 255, (8, 8, 3), np.dtype(np.uint8))
    draw = pixels.sample(KEY)
    assert draw.dtype == jnp.uint8 and pixels.contains(draw) and int(draw.max()) > 200
    free = flat_box(4)
    assert jnp.isfinite(free.sample(KEY)).all() and free.contains(jnp.full(4, 1e9, jnp.float32))


# --- registry ---


@pytest.fixture
def registry():
    """Ids registered in a test are forgotten after it."""
    before = dict(_REGISTRY)
    yield
    _REGISTRY.clear()
    _REGISTRY.update(before)


def test_register_and_make(registry):
    envs_jax.register("count", Count, goal=7.0)
    envs_jax.register("count", Count, goal=7.0)  # saying the same again is fine
    assert envs_jax.make("count") == Count(goal=7.0)
    assert envs_jax.make("count", num_agents=3, goal=8.0) == Count(num_agents=3, goal=8.0)
    envs_jax.register("any", lambda **settings: Count(**settings))
    assert envs_jax.make("any", goal=1.0) == Count(goal=1.0)
    assert "count" in envs_jax.registered() == sorted(envs_jax.registered())
    with pytest.raises(ValueError, match="'count' is taken"):
        envs_jax.register("count", Count)
    with pytest.raises(ValueError, match="kept for JaxMARL"):
        envs_jax.register("jaxmarl/mine", Count)
    with pytest.raises(ValueError, match="unknown keyword 'gaol'; allowed: num_agents, max_steps, goal"):
        envs_jax.make("count", gaol=1.0)


def test_make_suggests_what_was_meant():
    with pytest.raises(ValueError, match="did you mean 'specialisation'"):
        envs_jax.make("specialization")
