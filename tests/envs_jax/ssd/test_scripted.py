"""Scripted policies do what their names say, and play the dilemmas as dilemmas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs_jax
from envs_jax.ssd import scripted

SMALL = {
    "harvest": {"map": "small", "num_agents": 4},
    "cleanup": {"map": "small", "num_agents": 4},
    "coins": {"map": "6x6", "coin_rate": 0.01},
}


def play(env, policy, steps, envs=4, seed=0, change=lambda state: state):
    """`(states, actions, rewards, infos, last)`, each [envs, steps, ...] but for `last`, the final states: the states
    acted in, what was done in them, and what it gave."""

    def episode(key):
        key_init, key_run = jax.random.split(key)

        def step(state, key):
            key_act, key_step = jax.random.split(key)
            actions = policy(env, state, key_act)
            after, outcome = env.advance(key_step, state, actions)
            return after, (state.replace(roles=None), actions, outcome.reward, outcome.info)

        last, history = jax.lax.scan(step, change(env.init(key_init)), jax.random.split(key_run, steps))
        return *history, last

    return jax.device_get(jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(seed), envs)))


def with_apples(state):
    """Without waste, and apples everywhere."""
    clean = {"waste": jnp.zeros_like(state.waste)} if hasattr(state, "waste") else {}
    return state.replace(apple=jnp.ones_like(state.apple), **clean)


@pytest.mark.parametrize("game", ["harvest", "cleanup", "coins"])
def test_greedy_eats_more_than_random(game):
    env = envs_jax.make(game, **SMALL[game])
    change = (lambda state: state) if game == "coins" else with_apples
    items = {name: play(env, scripted.POLICIES[name], 40, change=change)[-1].items for name in ("greedy", "random")}
    greedy, random = (items[name].sum(axis=1) for name in ("greedy", "random"))  # by environment
    assert (greedy > random).all() and greedy.sum() > 1.5 * random.sum(), items


def test_greedy_takes_the_shortest_way_around_a_wall():
    text = "WWWWWW\nWP  AW\nWPWWWW\nW    W\nWWWWWW"
    env = envs_jax.make("harvest", map=text, num_agents=1, rules="socialjax")
    start = lambda state: state.replace(cell=jnp.array([3 * 6 + 4]))  # noqa: E731
    states, *_ = play(env, scripted.greedy, 60, envs=8, change=start)
    left = env.board.distances[states.cell[:, :, 0], 10]
    assert (left[:, 0] == 8).all()  # 3 to the west, 2 to the north, 3 to the east
    ate = np.argmin(states.apple[:, :, 0], axis=1)  # the first step without the apple
    assert (ate >= 8).all() and ate.min() <= 9 and np.median(ate) <= 12
    hungry = np.arange(59) < ate[:, None]
    assert (np.diff(left, axis=1) < 0)[hungry].mean() > 0.8  # but for a random step now and then


@pytest.mark.parametrize("rules", ["meltingpot", "socialjax"])
def test_restraint_keeps_the_orchard_and_pays(rules):
    env = envs_jax.make("harvest", rules=rules, **SMALL["harvest"])
    _, _, greedy, _, bare = play(env, scripted.greedy, 800, envs=6)
    _, _, restrained, _, kept = play(env, scripted.restrained, 800, envs=6)
    assert not bare.apple.any() and (kept.apple.sum(axis=1) >= 3).all()
    assert (restrained.sum(axis=(1, 2)) > 2 * greedy.sum(axis=(1, 2))).all()
    # The greedy ones are ahead at first.
    assert greedy[:, :10].sum() > restrained[:, :10].sum()


def test_restrained_agents_step_on_no_apple_that_they_should_leave():
    env = envs_jax.make("harvest", **SMALL["harvest"])
    states, *_ = play(env, scripted.restrained, 200)
    near = np.array(env.board.neighbours(env.board.apple_cells, env.numbers.neighbour_radius2))
    apple = np.pad(states.apple, ((0, 0), (0, 0), (0, 1)))
    spared = states.apple & (apple[..., near].sum(axis=-1) < 3)
    place = env.board.index_of(env.board.apple_cells)[states.cell[:, 1:]]  # where agents went from each state
    on = np.take_along_axis(np.pad(spared[:, :-1], ((0, 0), (0, 0), (0, 1))), place, axis=2)
    assert spared.any() and not on.any()


def test_cleaners_lower_the_waste():
    env = envs_jax.make("cleanup", **SMALL["cleanup"])
    _, _, _, info, last = play(env, scripted.cleaner, 200)
    first, final = info["waste_share"][:, 0, 0], info["waste_share"][:, -1, 0]
    assert (first > 0.4).all() and (final < 0.15).all()
    assert (info["cleaned"].sum(axis=(1, 2)) > 20).all()
    # Hardly a shot hits nothing: only where two shoot at the same waste, or the shooter gets bumped off its line.
    assert info["cleaned"].sum() > 0.6 * info["cleans_fired"].sum()


def test_cooperators_of_cleanup_eat_where_the_greedy_starve():
    env = envs_jax.make("cleanup", **SMALL["cleanup"])
    assert play(env, scripted.greedy, 300)[2].sum() == 0
    rewards = play(env, scripted.cooperator, 300)[2]
    assert (rewards.sum(axis=(1, 2)) > 40).all()


def test_who_cannot_clean_harvests():
    env = envs_jax.make("cleanup", map="small", roles="2cleaner,2consumer")
    _, actions, rewards, _, _ = play(env, scripted.cooperator, 200)
    assert (actions[:, :, :2] == 8).any() and not (actions[:, :, 2:] == 8).any()
    assert rewards[:, :, 2:].sum() > rewards[:, :, :2].sum() > 0


def test_cooperators_of_coins_take_no_coin_of_the_other():
    env = envs_jax.make("coins", **SMALL["coins"])
    states, _, rewards, info, _ = play(env, scripted.cooperator, 300)
    place = env.board.index_of(env.board.coin_cells)[states.cell[:, 1:]]
    coin = np.take_along_axis(np.pad(states.coin[:, :-1], ((0, 0), (0, 0), (0, 1))), place, axis=2)
    assert np.isin(coin, [0]).any() and (coin == [1, 2]).any() and not (coin == [2, 1]).any()
    # What grows under an agent is its own at once, whosever it is: rare, and no choice of the agent's.
    assert info["coins_other"].sum() < 0.1 * info["coins_own"].sum()
    assert rewards.sum() > play(env, scripted.defector, 300)[2].sum()


@pytest.mark.parametrize("game", ["harvest", "cleanup"])
def test_zapper_hits(game):
    env = envs_jax.make(game, **SMALL[game])
    info = play(env, scripted.zapper, 150)[3]
    fired, hit = (info[name].sum(axis=(1, 2)) for name in ("zaps_fired", "zap_hits"))
    assert (hit > 4).all() and (hit > 0.5 * fired).all()


def test_zapper_fires_only_when_it_can():
    env = envs_jax.make("harvest", map="small", roles="2peaceful_consumer,2standard")
    states, actions, *_, info, _ = play(env, scripted.zapper, 100)
    zaps = actions == 7
    assert not zaps[:, :, :2].any() and not (zaps & (states.zap_wait > 0)).any()
    assert (info["zaps_fired"] == (zaps & (states.away == 0))).all()


def test_who_cooperates_is_data():
    env = envs_jax.make("harvest", **SMALL["harvest"])
    state = env.init(jax.random.key(0))
    traces = []

    @jax.jit
    def act(cooperates, state, key):
        traces.append(1)
        return scripted.mixed(cooperates)(env, state, key)

    key = jax.random.key(3)
    cooperates = np.array([True, False, True, False])
    actions = act(cooperates, state, key)
    assert (
        actions == jnp.where(cooperates, scripted.cooperator(env, state, key), scripted.defector(env, state, key))
    ).all()
    assert actions.dtype == jnp.int32 and actions.shape == (4,)
    assert (act(np.zeros(4, bool), state, key) == scripted.defector(env, state, key)).all()
    assert len(traces) == 1
    both = jax.vmap(act, in_axes=(0, None, None))(np.stack([cooperates, ~cooperates]), state, key)
    assert (both[0] == actions).all()


def schelling(game, envs=6, **settings):
    """Mean returns [N + 1, N], and each agent's own as a defector and as a cooperator when all before it cooperate."""
    env = envs_jax.make(game, **{**SMALL[game], **settings})
    table = np.asarray(jax.jit(lambda key: scripted.returns_by_cooperators(env, key, envs))(jax.random.key(0)))
    agents = np.arange(env.num_agents)
    assert table.shape == (env.num_agents + 1, env.num_agents) and np.isfinite(table).all()
    return table, table[agents, agents], table[agents + 1, agents]


def test_coins_is_a_prisoners_dilemma():
    table, defects, cooperates = schelling("coins")
    assert (defects > cooperates).all()
    assert (np.diff(table.mean(axis=1)) > 0).all()


def test_defecting_pays_in_cleanup_once_two_others_clean():
    """With fewer the river stays too dirty, so that whoever joins the cleaners gains by it: a threshold public good."""
    table, defects, cooperates = schelling("cleanup", max_steps=600)
    assert (defects[2:] > 1.2 * cooperates[2:]).all() and (cooperates[:2] >= defects[:2]).all()
    mean = table.mean(axis=1)
    assert mean[0] == 0 and mean[1] < mean[2] < mean[3] and mean[4] > 3 * mean[1]


def test_defecting_pays_in_harvest_until_all_others_are_restrained():
    """One greedy agent is enough to eat the orchard bare in the end, so the last to be tempted loses by it; before,
    restraint only leaves more to the greedy."""
    table, defects, cooperates = schelling("harvest", envs=24)
    assert (defects[:-1] > cooperates[:-1]).all() and defects[-1] < cooperates[-1]
    mean = table.mean(axis=1)
    assert mean[-1] > 3 * mean[:-1].max() and mean[-2] >= mean[0]


def test_order_says_who_joins():
    env = envs_jax.make("coins", map="4x4", coin_rate=0.05, max_steps=20)
    table, other = (
        jax.jit(lambda key, order=order: scripted.returns_by_cooperators(env, key, 2, order))(jax.random.key(0))
        for order in ([1, 0], None)
    )
    assert (table[0] == other[0]).all() and (table[2] == other[2]).all() and (table[1] != other[1]).any()
    with pytest.raises(ValueError, match=r"order is \[0, 0\]; allowed: each of the agents 0 to 1 once"):
        scripted.returns_by_cooperators(env, jax.random.key(0), 2, order=[0, 0])
    with pytest.raises(ValueError, match="max_steps is None"):
        scripted.returns_by_cooperators(envs_jax.make("coins", max_steps=None), jax.random.key(0), 2)


@pytest.mark.parametrize("game", ["harvest", "cleanup", "coins"])
def test_each_game_says_which_policies_it_has(game):
    env = envs_jax.make(game)
    state, key = env.init(jax.random.key(0)), jax.random.key(1)
    names = scripted.available(env)
    for name, policy in scripted.POLICIES.items():
        if name in names:
            actions = jax.eval_shape(lambda s, k, p=policy: p(env, s, k), state, key)
            assert actions.shape == (env.num_agents,) and actions.dtype == jnp.int32
        else:
            with pytest.raises(ValueError, match=f"policy is '{name}'; allowed in {game}: {', '.join(names)}$"):
                policy(env, state, key)
    assert {"random", "greedy", "cooperator", "defector"} <= set(names)
