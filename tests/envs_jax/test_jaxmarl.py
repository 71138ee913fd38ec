"""envs_jax.compat.jaxmarl: our environments in JaxMARL, JaxMARL's here."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jaxmarl
import jaxmarl.registration
import numpy as np
import pytest
from jaxmarl.environments import spaces as their_spaces
from jaxmarl.environments.multi_agent_env import MultiAgentEnv as TheirMultiAgentEnv
from jaxmarl.wrappers.baselines import CTRolloutManager, LogWrapper

import envs_jax
from envs_jax import registry
from envs_jax.base import MultiAgentEnv, Outcome, State, flat_box, pytree, start_clock
from envs_jax.compat.jaxmarl import FromJaxMARL, as_jaxmarl, from_jaxmarl, install, uninstall
from envs_jax.spaces import Box, Discrete
from envs_jax.testing.tools import jit_for_once


@pytree
class EchoState(State):
    target: jax.Array  # int32[N]


@dataclass(frozen=True)
class Echo(MultiAgentEnv):
    """Each agent sees a number and is rewarded for repeating it; `sizes` says how many numbers each agent knows."""

    num_agents: int = 2
    max_steps: int | None = 4
    sizes: tuple[int, ...] = (3, 3)

    def init(self, key):
        return EchoState(**start_clock(), target=self._draw(key))

    def transition(self, key, state, actions):
        hit = actions == state.target
        never = jnp.zeros((), jnp.bool_)
        reward = hit.astype(jnp.float32)
        return state.replace(target=self._draw(key)), Outcome(reward, never, never, {"hit": reward})

    def observe(self, state):
        return jax.nn.one_hot(state.target, max(self.sizes), dtype=jnp.float32)

    def observation_space(self, agent=None):
        return flat_box(max(self.sizes) if agent is None else self.sizes[self.agents.index(agent)], 0.0, 1.0)

    def action_space(self, agent=None):
        return Discrete(max(self.sizes) if agent is None else self.sizes[self.agents.index(agent)])

    def render(self, state):
        return np.full((4, 6, 3), int(state.target[0]), np.uint8)

    def _draw(self, key):
        return jax.random.randint(key, (self.num_agents,), 0, np.array(self.sizes), jnp.int32)


class Competitive(Echo):
    """A name with "mpe" in it."""


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(
        registry,
        "_REGISTRY",
        {**registry._REGISTRY, **{env_id: (Echo, {}) for env_id in ("echo", "my/echo", "tempest")}},
    )
    install()
    yield
    uninstall()


# --- Ours in JaxMARL ---


def test_import_does_not_import_jaxmarl():
    code = "import sys, envs_jax.compat.jaxmarl; assert not {'jaxmarl', 'flax', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_printed():
    code = "from envs_jax.compat.jaxmarl import install; install()"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b""


def test_install_and_uninstall():
    def current():
        return [getattr(m, n) for m in (jaxmarl, jaxmarl.registration) for n in ("make", "registered_envs")]

    before, ids = current(), list(jaxmarl.registered_envs)
    uninstall()  # without install: nothing
    assert all(a is b for a, b in zip(current(), before, strict=True))
    install()
    install()
    assert all(a is not b for a, b in zip(current(), before, strict=True))
    assert jaxmarl.registered_envs[: len(ids)] == ids
    assert len(set(jaxmarl.registered_envs)) == len(jaxmarl.registered_envs)
    assert set(envs_jax.registered()) <= set(jaxmarl.registered_envs)
    uninstall()
    assert all(a is b for a, b in zip(current(), before, strict=True))
    assert jaxmarl.registered_envs == ids


def test_installed_make(installed):
    from jaxmarl import make

    for maker in (make, jaxmarl.make, jaxmarl.registration.make):
        env = maker("echo", sizes=[3, 2], max_steps=7)  # a list, as from a configuration file
        assert isinstance(env, TheirMultiAgentEnv)
        assert env.env == Echo(sizes=(3, 2), max_steps=7)
    assert make("my/echo") == make("my_echo") == make("echo")
    assert {"echo", "my/echo", "my_echo"} <= set(jaxmarl.registered_envs)
    assert type(make("MPE_simple_spread_v3")).__name__ == "SimpleSpreadMPE"
    with pytest.raises(ValueError, match="nonsense"):
        make("nonsense")
    with pytest.raises(ValueError, match="unknown keyword 'size'"):
        make("echo", size=3)


def test_ids_of_jaxmarl_stay_jaxmarls(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", {"coin_game": (Echo, {})})
    install()
    try:
        assert type(jaxmarl.make("coin_game")).__name__ == "CoinGame"
        assert jaxmarl.registered_envs.count("coin_game") == 1
    finally:
        uninstall()


def test_names_that_trip_jaxmarls_scripts_are_refused(installed):
    with pytest.raises(ValueError, match="'tempest'; allowed: one without 'mpe'"):
        jaxmarl.make("tempest")
    with pytest.raises(ValueError, match="name is 'Competitive'"):
        as_jaxmarl(Competitive())


def test_as_jaxmarl_has_all_of_the_interface():
    ours = Echo(sizes=(3, 2))
    env = as_jaxmarl(ours)
    assert (env.num_agents, env.agents, env.name, env.max_steps) == (2, ["agent_0", "agent_1"], "Echo", 4)
    assert env.agent_classes == {"agent": ["agent_0", "agent_1"]}
    for i, agent in enumerate(env.agents):
        assert env.action_space(agent) is env.action_spaces[agent]
        assert isinstance(env.action_space(agent), their_spaces.Discrete) and env.action_space(agent).n == 3 - i
        space = env.observation_space(agent)
        assert isinstance(space, their_spaces.Box) and space.shape == (3 - i,) and (space.low, space.high) == (0, 1)

    key = jax.random.PRNGKey(0)
    obs, state = env.reset(key)
    actions = {agent: jnp.zeros((1,), jnp.int32) for agent in env.agents}
    for stepped in ("step", "step_env"):
        jax.tree.map(
            np.testing.assert_array_equal,
            getattr(env, stepped)(key, state, actions),
            getattr(ours, stepped)(key, state, actions),
        )
    jax.tree.map(np.testing.assert_array_equal, obs, env.get_obs(state))
    assert {a: m.shape for a, m in env.get_avail_actions(state).items()} == {"agent_0": (3,), "agent_1": (2,)}
    assert env.world_state(state).shape == (6,)
    assert env.render(state).shape == (4, 6, 3)

    assert env == as_jaxmarl(Echo(sizes=(3, 2))) != as_jaxmarl(Echo())
    assert hash(env) == hash(as_jaxmarl(Echo(sizes=(3, 2))))
    assert copy.deepcopy(env) == env
    with pytest.raises(AttributeError):
        _ = env.nonsense


def test_as_jaxmarl_resets_to_a_given_state():
    env = as_jaxmarl(Echo(max_steps=1))
    _, state = env.reset(jax.random.PRNGKey(0))
    target = jnp.array([2, 1], jnp.int32)
    actions = {agent: jnp.zeros((), jnp.int32) for agent in env.agents}
    obs, after, _, dones, _ = env.step(jax.random.PRNGKey(1), state, actions, state.replace(target=target))
    assert dones["__all__"]
    np.testing.assert_array_equal(after.target, target)
    np.testing.assert_array_equal(obs["agent_0"], [0, 0, 1])


def test_as_jaxmarl_can_be_animated():
    from jaxmarl.viz.visualizer import Visualizer
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    env = as_jaxmarl(Echo())
    _, state = env.reset(jax.random.PRNGKey(0))
    seen = Visualizer(env, [state, state.replace(target=state.target + 50)])
    seen.init()
    seen.update(1)
    assert seen.im.get_array().max() == int(state.target[0]) + 50
    pyplot.close(seen.fig)


@pytest.mark.parametrize("action_shape", [(), (1,)])
def test_a_policy_gradient_script_in_jaxmarls_shape_learns(installed, action_shape):
    num_envs, num_steps, num_updates = 8, 8, 60
    env = LogWrapper(jaxmarl.make("echo"))
    num_actors = env.num_agents * num_envs

    def batchify(by_agent):
        return jnp.stack([by_agent[agent] for agent in env.agents]).reshape(num_actors, -1)

    def train(key):
        assert key[0].dtype == jnp.uint32  # their scripts read the seed off a legacy key
        key, key_init, key_reset = jax.random.split(key, 3)
        size = env.observation_space(env.agents[0]).shape[0], env.action_space(env.agents[0]).n
        params = 0.01 * jax.random.normal(key_init, size)
        obs, env_state = jax.vmap(env.reset)(jax.random.split(key_reset, num_envs))

        def step(carry, _):
            params, obs, env_state, key = carry
            key, key_act, key_step = jax.random.split(key, 3)
            inputs = batchify(obs)
            action = jax.random.categorical(key_act, inputs @ params)
            rows = action.reshape(env.num_agents, num_envs, *action_shape)
            by_agent = {agent: rows[i] for i, agent in enumerate(env.agents)}
            keys = jax.random.split(key_step, num_envs)
            obs, env_state, reward, done, info = jax.vmap(env.step)(keys, env_state, by_agent)
            info = jax.tree.map(lambda x: x.reshape(num_actors), info)
            assert batchify(done).shape == (num_actors, 1)
            return (params, obs, env_state, key), (inputs, action, batchify(reward)[:, 0], info)

        def update(carry, _):
            (params, *rest), (inputs, action, reward, info) = jax.lax.scan(step, carry, None, num_steps)

            def loss(params):
                log_prob = jax.nn.log_softmax(inputs @ params)
                chosen = jnp.take_along_axis(log_prob, action[..., None], -1)[..., 0]
                return -(chosen * (reward - reward.mean())).mean()

            params = params - 2.0 * jax.grad(loss)(params)
            return (params, *rest), jax.tree.map(jnp.mean, info)

        return jax.lax.scan(update, (params, obs, env_state, key), None, num_updates)[1]

    metrics = jit_for_once(jax.vmap(train))(jax.random.split(jax.random.PRNGKey(0), 3))
    assert {"returned_episode_returns", "hit", "terminated", "truncated"} <= set(metrics)
    returns = metrics["returned_episode_returns"]  # 4 for a perfect episode, 4/3 by chance
    assert returns.shape == (3, num_updates)
    assert (returns[:, 2] < 2.2).all() and (returns[:, -1] > 3.5).all()
    assert (metrics["truncated"][:, 0] == 0.25).all() and not metrics["terminated"].any()


def test_a_q_learning_script_in_jaxmarls_shape(installed):
    env = LogWrapper(jaxmarl.make("echo", sizes=(3, 2)))
    manager = CTRolloutManager(env, batch_size=5)
    assert manager.obs_size == 3 + 2 and manager.max_action_space == 3

    def rollout(key):
        obs, state = manager.batch_reset(key)

        def step(carry, key):
            obs, state = carry
            valid = manager.get_valid_actions(state.env_state)
            # greedy in "the number that I see", among the valid actions
            actions = {a: jnp.argmax(obs[a][:, :3] * valid[a], axis=-1) for a in env.agents}
            obs, state, reward, done, info = manager.batch_step(key, state, actions)
            assert obs["agent_1"].shape == (5, 5) and obs["__all__"].shape == (5, 5)
            return (obs, state), (reward["__all__"], done["__all__"], info["returned_episode_returns"])

        return jax.lax.scan(step, (obs, state), jax.random.split(key, 9))[1]

    reward, done, returns = jit_for_once(rollout)(jax.random.PRNGKey(0))
    np.testing.assert_array_equal(done.all(1), [False, False, False, True] * 2 + [False])
    # the rollout manager blanks what done agents see, so the first steps after a reset are blind guesses
    seen = np.ones(9, bool)
    seen[[4, 8]] = False
    assert (reward[seen] == 2).all() and returns.shape == (9, 5, 2) and returns.max() == 4
    assert manager.batch_sample(jax.random.PRNGKey(1), "agent_1").shape == (5,)


# --- JaxMARL's here ---

PARITY: list[tuple[str, dict[str, Any], int | None, int]] = [  # id, settings, steps of an episode, steps to compare
    ("MPE_simple_tag_v3", {"max_steps": 4}, 5, 16),
    ("MPE_simple_speaker_listener_v4", {"max_steps": 3, "action_type": "Continuous"}, 4, 10),
    ("HeuristicEnemySMAX", {"scenario": "3m", "max_steps": 24, "enemy_shoots": True}, 25, 80),
    ("SMAX", {"num_allies": 2, "num_enemies": 3, "max_steps": 3}, 4, 10),
    ("coin_game", {"num_inner_steps": 3, "num_outer_steps": 2}, None, 20),
    ("switch_riddle", {"num_agents": 3}, 6, 20),
    ("overcooked", {"layout": "cramped_room", "max_steps": 5}, 5, 12),
]


@pytest.fixture(scope="module", params=PARITY, ids=[case[0] for case in PARITY])
def parity(request):
    """Both environments stepped side by side with the same keys and random actions: (env, case, records)."""
    env_id, settings, _, num_steps = request.param
    env = envs_jax.make(f"jaxmarl/{env_id}", **settings)
    assert isinstance(env, FromJaxMARL)
    theirs = env.jaxmarl_env

    def rollout(key):
        key_reset, key_steps = jax.random.split(key)
        state = env.init(key_reset)
        their_obs, their_state = theirs.reset(key_reset)

        def step(carry, key):
            state, their_state = carry
            key_act, key_step = jax.random.split(key)
            space = env.action_space()
            if isinstance(space, Discrete):
                logits = jnp.where(env.action_mask(state), 0.0, -jnp.inf)
                actions = jax.random.categorical(key_act, logits).astype(jnp.int32)
            else:
                actions = jax.random.uniform(key_act, (env.num_agents, *space.shape))
            their_actions = {
                agent: actions[i] if isinstance(space, Discrete) else actions[i, : theirs.action_space(agent).shape[0]]
                for i, agent in enumerate(theirs.agents)
            }
            their_obs, their_state, reward, done, info = theirs.step(key_step, their_state, their_actions)
            state, outcome, last_state = env.advance_and_reset(key_step, state, actions)
            record = {
                "obs": (env.get_obs(state), {agent: their_obs[agent] for agent in theirs.agents}),
                "reward": (outcome.reward, jnp.stack([reward[agent] for agent in theirs.agents])),
                "done": (outcome.done, done["__all__"]),
                "game": (state.game, their_state),
            }
            extra = {
                "terminated": outcome.terminated,
                "truncated": outcome.truncated,
                "info": outcome.info,
                "step": last_state.step,
                "row": env.observe(state),
                "global_state": env.global_state(state),
                "world_state": their_obs.get("world_state"),
                "last": last_state.game,
            }
            return (state, their_state), (record, extra)

        first = env.get_obs(state), {agent: their_obs[agent] for agent in theirs.agents}
        return first, jax.lax.scan(step, (state, their_state), jax.random.split(key_steps, num_steps))[1]

    first, (record, extra) = jit_for_once(jax.vmap(rollout))(jax.random.split(jax.random.PRNGKey(7), 4))
    return env, request.param, first, record, extra


def test_wrapped_environment_steps_as_jaxmarl_does(parity):
    env, _, first, record, _ = parity
    assert record["done"][0].sum(1).min() >= 2, "several episodes in each environment"
    for name, (ours, theirs) in {**record, "first": first}.items():
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_ends_are_terminations_or_truncations(parity):
    env, (env_id, _, length, _), _, record, extra = parity
    assert env.max_steps == length
    ended = np.asarray(record["done"][0])
    terminated, truncated, step = (np.asarray(extra[name]) for name in ("terminated", "truncated", "step"))
    assert not (terminated & truncated).any()
    if env_id.startswith("MPE") or env_id == "overcooked":
        np.testing.assert_array_equal(truncated, ended)
        assert (step[ended] == length).all()
    elif "SMAX" in env_id:
        alive = np.asarray(getattr(extra["last"], "state", extra["last"]).unit_alive)
        num_allies = env.jaxmarl_env.num_allies
        over = ~(alive[..., :num_allies].any(-1) & alive[..., num_allies:].any(-1))
        np.testing.assert_array_equal(terminated, over)
        assert (step[truncated] == length).all() and truncated.any()
        if env_id == "HeuristicEnemySMAX":
            assert terminated.any(), "random play loses battles"
    elif env_id == "switch_riddle":  # ends when an agent tells, or by the clock
        assert terminated.any() and (step[terminated] < length).all() and (step[truncated] == length).all()
    else:
        np.testing.assert_array_equal(terminated, ended)


def test_wrapped_info_has_one_value_per_agent(parity):
    env, (env_id, *_), _, record, extra = parity
    shape = (*record["done"][0].shape, env.num_agents)
    assert all(leaf.shape == shape for leaf in extra["info"].values())
    own = {"coin_game": {"inner_episode_done"}, "overcooked": {"shaped_reward"}}
    smax = {"won"} if "SMAX" in env_id else set()
    assert set(extra["info"]) == own.get(env_id, set()) | smax | {"agent_done"}
    if smax:
        alive = np.asarray(getattr(extra["last"], "state", extra["last"]).unit_alive)
        np.testing.assert_array_equal(extra["info"]["agent_done"], ~alive[..., : env.num_agents])


def test_wrapped_shapes_and_dtypes(parity):
    env, (env_id, *_), _, _, extra = parity
    space = env.observation_space()
    assert extra["row"].shape[2:] == (env.num_agents, *space.shape) and extra["row"].dtype == space.dtype
    assert extra["global_state"].dtype == jnp.float32
    if extra["world_state"] is not None:
        assert "SMAX" in env_id
        np.testing.assert_array_equal(extra["global_state"], extra["world_state"])
    else:
        assert extra["global_state"].shape[2:] == (env.num_agents * int(np.prod(space.shape)),)
    key = jax.random.key(0)
    state = jax.eval_shape(env.init, key)
    actions = jax.ShapeDtypeStruct((env.num_agents, *env.action_space().shape), env.action_space().dtype)
    next_state, outcome = jax.eval_shape(env.advance, key, state, actions)
    assert jax.tree.leaves(state) == jax.tree.leaves(next_state), "the same shapes, dtypes and weak types"
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((state, outcome)))
    assert outcome.reward.dtype == jnp.float32 and outcome.reward.shape == (env.num_agents,)


def test_unequal_agents_of_simple_tag():
    env = from_jaxmarl("MPE_simple_tag_v3")
    assert env.agents == ["adversary_0", "adversary_1", "adversary_2", "agent_0"]
    assert env.agent_classes == {"adversary": env.agents[:3], "agent": env.agents[3:]}
    assert [env.observation_space(agent).shape for agent in env.agents] == [(16,)] * 3 + [(14,)]
    assert env.observation_space() == Box(-np.inf, np.inf, (16,))
    state = env.init(jax.random.key(0))
    assert (env.observe(state)[3, 14:] == 0).all() and env.get_obs(state)["agent_0"].shape == (14,)
    assert env.action_mask(state).all() and env.action_mask(state).shape == (4, 5) and not env.masks_actions


def test_unequal_actions_of_smax():
    env = from_jaxmarl("SMAX", num_allies=2, num_enemies=3)
    assert [env.action_space(agent).n for agent in env.agents] == [8, 8, 7, 7, 7]
    assert env.action_space() == Discrete(8)
    state = jit_for_once(env.init)(jax.random.key(0))
    mask = env.action_mask(state)
    assert env.masks_actions and mask.dtype == jnp.bool_ and mask.shape == (5, 8)
    assert not mask[2:, 7].any() and mask[:, :5].all()
    theirs = env.jaxmarl_env.get_avail_actions(state.game)
    for agent, ours in env.get_avail_actions(state).items():
        np.testing.assert_array_equal(ours, theirs[agent])
    # an action beyond an agent's own counts as its last
    advance = jit_for_once(env.advance)
    a = advance(jax.random.key(1), state, jnp.full(5, 7))
    b = advance(jax.random.key(1), state, jnp.array([7, 7, 6, 6, 6]))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_smax_says_who_won():
    env = from_jaxmarl("SMAX", num_allies=2, num_enemies=2, max_steps=3)
    alive = jnp.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1]], jnp.float32)

    def step(alive):
        state = env.init(jax.random.key(0))
        state = state.replace(game=state.game.replace(unit_health=state.game.unit_health * alive))
        return env.advance(jax.random.key(1), state, jnp.full(4, 4))[1]  # nobody moves

    outcome = jit_for_once(jax.vmap(step))(alive)
    np.testing.assert_array_equal(outcome.info["won"], [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0] * 4, [0] * 4])
    np.testing.assert_array_equal(outcome.info["agent_done"], alive == 0)
    np.testing.assert_array_equal(outcome.terminated, [True, True, True, True, False])
    assert not outcome.truncated.any()


def test_equal_configurations_are_equal_and_compile_once():
    env, same = (from_jaxmarl("MPE_simple_spread_v3", num_agents=2, max_steps=9) for _ in range(2))
    other = from_jaxmarl("MPE_simple_spread_v3", num_agents=2, max_steps=8)
    assert env == same and hash(env) == hash(same) and env != other
    assert env.jaxmarl_env is same.jaxmarl_env is not other.jaxmarl_env
    traces = []

    def init(env, key):
        traces.append(env)
        return env.init(key)

    jitted = jax.jit(init, static_argnums=0)
    for each in (env, same):
        jitted(each, jax.random.key(0))
    assert len(traces) == 1


def test_made_inside_jit():
    def first_obs(key):
        env = from_jaxmarl("MPE_simple_v3", max_steps=77)  # not made before: no constant may become a tracer
        return env.observe(env.init(key))

    inside = jit_for_once(first_obs)(jax.random.key(0))
    np.testing.assert_array_equal(inside, first_obs(jax.random.key(0)))


def test_there_and_back():
    ours = Echo()
    assert from_jaxmarl(as_jaxmarl(ours)) is ours
    theirs = jaxmarl.make("MPE_simple_spread_v3", num_agents=2)
    env = from_jaxmarl(theirs)
    assert env.num_agents == 2 and as_jaxmarl(env) is theirs and env == from_jaxmarl(theirs)


def test_ours_are_not_jaxmarls_while_installed(installed):
    with pytest.raises(ValueError, match="unknown JaxMARL environment 'echo'"):
        from_jaxmarl("echo")


def test_render_mpe():
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    before = pyplot.get_fignums()
    env = from_jaxmarl("MPE_simple_tag_v3")
    states = [env.init(jax.random.key(seed)) for seed in range(2)]
    frames = [env.render(state) for state in states]
    assert frames[0].dtype == np.uint8 and frames[0].ndim == 3 and frames[0].shape[2] == 3
    assert (frames[0] != frames[1]).any()
    assert pyplot.get_fignums() == before
    other = from_jaxmarl("coin_game")
    with pytest.raises(NotImplementedError, match="only JaxMARL's MPE"):
        other.render(None)


def test_wrong_input():
    with pytest.raises(ValueError, match="unknown JaxMARL environment 'MPE_simple'; JaxMARL has: MPE_simple_v3, "):
        envs_jax.make("jaxmarl/MPE_simple")
    with pytest.raises(ValueError, match="unexpected keyword argument 'agents'"):
        from_jaxmarl("coin_game", agents=3)
    with pytest.raises(ValueError, match="HeuristicEnemySMAX: scenario is .*; allowed: a hashable value"):
        from_jaxmarl("HeuristicEnemySMAX", scenario={"a": 1})
    with pytest.raises(ValueError, match="scenario is '4m'; allowed: 3m, "):
        from_jaxmarl("SMAX", scenario="4m")
    with pytest.raises(ValueError, match="allowed: an id of jaxmarl.make or a JaxMARL environment"):
        from_jaxmarl(3)
    with pytest.raises(ValueError, match="allowed: none beside an environment object"):
        from_jaxmarl(as_jaxmarl(Echo()), max_steps=3)
    with pytest.raises(NotImplementedError, match="dict are not supported, only Box"):
        from_jaxmarl("storm_2p")


def test_missing_jaxmarl(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxmarl.registration", None)
    monkeypatch.setitem(sys.modules, "jaxmarl", None)
    for call in (install, lambda: from_jaxmarl("SMAX")):
        with pytest.raises(ImportError, match="this needs JaxMARL: pip install"):
            call()
