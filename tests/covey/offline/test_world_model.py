"""The world model: it recovers a linear system, its rollouts stay close to the truth, doubt grows off the data."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covey.data.dataset import from_transitions
from covey.learners.offline import OfflineHyperparameters, Team, WorldModel, WorldModelConfig, source
from covey.learners.offline.world_model import Prediction

TEAM = Team(  # The second agent sees one number of two.
    state_size=3,
    obs_mask=((True, True), (True, False)),
    action_mask=((True,), (True,)),
    low=((-1.0,), (-2.0,)),
    high=((1.0,), (2.0,)),
)
A = np.array([[0.9, 0.1, 0.0], [-0.1, 0.9, 0.0], [0.0, 0.2, 0.8]])
B = np.array([[0.2, 0.0], [0.0, 0.1], [0.1, 0.1]])
NOISE = 0.02
LIMIT = 0.5  # Of the first number of a state: beyond it, a step terminates.
CONFIG = WorldModelConfig(
    rollouts=256, rollout_length=4, model_steps=1500, model_members=3, model_elites=2, model_hidden_sizes=(32,),
    model_batch_size=64,
)  # fmt: skip
HP = OfflineHyperparameters(uncertainty_penalty=0.0, rollout_noise=0.0, model_learning_rate=3e-3)


def step(world, action):
    return world @ A.T + action[..., 0] @ B.T


def see(world):
    obs = np.zeros((*world.shape[:-1], 2, 2))
    obs[..., 0, :], obs[..., 1, 0] = world[..., :2], world[..., 2]
    return obs


def reward(world, action):
    return np.stack([world[..., 0] + 0.5 * action[..., 0, 0], world[..., 1]], axis=-1)


@pytest.fixture(scope="module")
def fitted():
    """120 episodes of 10 random steps, which terminate with the step from beyond the limit."""
    rng = np.random.default_rng(0)
    parts, length, ended, final = [], [], [], []
    for _ in range(120):
        world = rng.uniform(-1, 0.7, 3)
        for t in range(10):
            action = rng.uniform(-1, 1, (2, 1)) * np.array([[1.0], [2.0]])
            after = step(world, action) + NOISE * rng.normal(size=3)
            parts.append((world, see(world), action, reward(world, action)))
            world, over = after, world[0] > LIMIT
            if over or t == 9:
                length.append(t + 1), ended.append(over), final.append(world)
                break
    columns = [np.stack(column) for column in zip(*parts, strict=True)]
    names = dict(zip(("state", "obs", "action", "reward"), columns, strict=True))
    dataset = from_transitions(
        np.array(length), np.array(ended), **names, final_state=np.stack(final), final_obs=see(np.stack(final)),
        obs_mask=TEAM.own_obs,
    )  # fmt: skip
    data = jax.tree.map(jnp.asarray, source(dataset, TEAM, 6, held_out=0.1))
    model = WorldModel(TEAM, CONFIG)

    @jax.jit
    def fit(key):
        return model.fit(model.init(key, HP), data, key, HP)

    state, metrics = fit(jax.random.key(0))
    return model, state, data, metrics


def act(obs, memory):
    """Moves by what is seen, so that an error in the observations is one in the actions."""
    return jnp.stack([-0.5 * obs[0, 1:], 0.4 * obs[1, :1]]), memory + 1


def test_one_step_is_the_linear_system(fitted):
    model, state, data, _ = fitted
    rng = np.random.default_rng(1)
    world, action = rng.uniform(-0.5, 0.5, (64, 3)), rng.uniform(-1, 1, (64, 2, 1))
    x = model._input(*(jnp.asarray(v, jnp.float32) for v in (world, see(world), action)), state.scale)
    found = model.predict(state.params, x[None])
    after = [model._outcome(jnp.asarray(world), jnp.asarray(see(world)), mean, state.scale) for mean in found.mean]
    for next_world, next_obs, earned in after:
        np.testing.assert_allclose(next_world, step(world, action), atol=0.05)
        np.testing.assert_allclose(next_obs, see(step(world, action)), atol=0.05)
        np.testing.assert_allclose(earned, reward(world, action), atol=0.1)
    deviation = np.exp(0.5 * np.asarray(found.log_var[..., :3])) * np.asarray(state.scale.output_std[:3])
    np.testing.assert_allclose(np.mean(deviation), NOISE, rtol=0.5)


def test_rollouts_stay_close_to_the_truth(fitted):
    """Four steps in the model against four of the true system without noise, from the same rows and actions."""
    model, state, data, _ = fitted
    roll = jax.jit(lambda key: model.rollout(state, act, jnp.zeros((2, 0)), data, key, 6, HP))
    made, metrics = roll(jax.random.key(0))
    assert made.state.shape == (256, 7, 3) and made.mask.shape == (256, 7) and not made.real.any()
    mask = np.asarray(made.mask)
    assert not mask[:, 4:].any() and 2.0 < metrics["rollout_length"] < 4.0
    ends = np.asarray(made.terminated) & mask
    assert not (mask[:, 1:] & ends[:, :-1]).any()
    truly = np.asarray(made.state)[..., 0] > LIMIT
    assert np.mean(ends[:, :4][mask[:, :4]] == truly[:, :4][mask[:, :4]]) > 0.97 and ends.any()
    world, error = np.asarray(made.state[:, 0], np.float64), []
    for t in range(4):
        moved = np.asarray(act_batch(made.obs[:, t]))
        np.testing.assert_allclose(made.action[:, t], moved, atol=1e-5)
        error.append(np.abs(world - np.asarray(made.state[:, t]))[mask[:, t]].mean())
        world = step(world, np.asarray(made.action[:, t], np.float64))
    assert error[0] == 0 and error[3] < 0.08, error
    assert np.asarray(made.obs)[:, :, 1, 1].max() == 0  # Padding stays what it is.


def act_batch(obs):
    return jax.vmap(lambda o: act(o, jnp.zeros(()))[0])(obs)


def test_doubt_lowers_rewards_and_grows_away_from_data(fitted):
    model, state, data, _ = fitted
    plain, _ = model.rollout(state, act, jnp.zeros((2, 0)), data, jax.random.key(0), 4, HP)
    hp = replace(HP, uncertainty_penalty=2.0)
    lowered, metrics = model.rollout(state, act, jnp.zeros((2, 0)), data, jax.random.key(0), 4, hp)
    gap = np.asarray(plain.reward - lowered.reward)[np.asarray(plain.mask)]
    np.testing.assert_allclose(gap.mean(), 2.0 * metrics["rollout_uncertainty"], rtol=1e-3)
    apart = WorldModel(TEAM, replace(CONFIG, uncertainty="disagreement"))
    near, far = (jnp.full((1, 1, model.network.inputs), x) for x in (0.0, 6.0))
    assert apart.doubt(model.predict(state.params, far)) > 3 * apart.doubt(model.predict(state.params, near))


def test_doubt_equals_numpy():
    rng = np.random.default_rng(0)
    mean, log_var = rng.normal(size=(3, 5, 4)), rng.normal(size=(3, 5, 4))
    found = Prediction(jnp.asarray(mean, jnp.float32), jnp.asarray(log_var, jnp.float32), jnp.zeros((3, 5)))
    noise = np.sqrt(np.exp(log_var).mean(axis=-1).max(axis=0))
    apart = np.sqrt(np.square(mean - mean.mean(axis=0)).mean(axis=-1).max(axis=0))
    for kind, expected in (("noise", noise), ("disagreement", apart)):
        model = WorldModel(TEAM, replace(CONFIG, uncertainty=kind))
        np.testing.assert_allclose(model.doubt(found), expected, rtol=1e-5)


def test_loss_is_the_likelihood_and_bounds_are_soft(fitted):
    """Against float64 NumPy; log variances end between their bounds, however large the network's outputs."""
    model, state, data, metrics = fitted
    rng = np.random.default_rng(0)
    shape = (3, 6, model.outputs)
    x = jnp.asarray(rng.normal(size=(3, 6, model.network.inputs)), jnp.float32)
    y, over = rng.normal(size=shape), (rng.random((3, 6)) < 0.5).astype(np.float64)
    found = jax.tree.map(lambda v: np.asarray(v, np.float64), model.predict(state.params, x))
    gaussian = np.square(found.mean - y) * np.exp(-found.log_var) + found.log_var
    ending = np.logaddexp(0, found.terminated) - over * found.terminated
    span = np.sum(np.asarray(state.params["largest"] - state.params["smallest"], np.float64))
    expected = gaussian.mean(axis=(1, 2)).sum() + ending.mean(axis=1).sum() + 0.01 * span
    loss = model.loss(state.params, x, jnp.asarray(y, jnp.float32), jnp.asarray(over, jnp.float32))
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    wild, largest, smallest = (
        model.predict(state.params, 1e4 * x).log_var,
        *map(state.params.get, ("largest", "smallest")),
    )
    assert (wild <= largest + jnp.log1p(jnp.exp(smallest - largest)) + 1e-3).all() and (wild >= smallest - 1e-3).all()
    assert np.isfinite(metrics["model_loss"]) and metrics["model_error"] < 0.15


def test_elites_are_the_members_with_the_smallest_error(fitted):
    """With a member that is made to be wrong, rollouts do not change: it is asked for its doubt alone."""
    model, state, data, _ = fitted
    worst = int(np.argmax(state.error))
    network = {k: v.at[worst].add(5.0) if k == "output/bias" else v for k, v in state.params["network"].items()}
    broken = replace(state, params={**state.params, "network": network})
    plain, other = (
        model.rollout(s, act, jnp.zeros((2, 0)), data, jax.random.key(0), 4, HP)[0] for s in (state, broken)
    )
    np.testing.assert_array_equal(plain.state, other.state)
    assert broken.error.shape == (3,) and np.isfinite(state.error).all()
