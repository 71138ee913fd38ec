"""CODA as a learner: one sampler in the program, seeds apart, everything it claims about its modes."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from algos.tasks_coda import build, presets
from algos.tasks_offline import GameData, Learning
from covey.diffusion import CodaConfig, CodaHyperparameters, EDMConfig, GeneratorConfig, UNetConfig, diagnostics
from covey.experiment import Program, make_train, seed_keys
from covey.learners.offline import OfflineConfig, WorldModelConfig
from covey.policies import PolicyConfig
from envs_jax.games.polynomial import Multiplication

SAMPLER_STEPS = 7
OFFLINE = presets("none")["twin-peaks"]["small"].offline


def job(mode, task="twin-peaks", **changes):
    """A tiny run."""
    args = presets(mode)[task]["small"]
    tiny = {
        "coda": CodaConfig(mode, num_samples=8, burn_in=0),
        "offline": replace(args.offline, batch_size=8),
        "generator": GeneratorConfig(fit_steps=5, fit_batch_size=8),
        "unet": UNetConfig(features=4, levels=1, norm_groups=1),
        "edm": EDMConfig(num_steps=SAMPLER_STEPS),
        "game": GameData(data_size=200),
    }
    return build(replace(args, **(tiny | changes)))


def scans(jaxpr, length):
    """How many scans of this length a program holds, at any depth."""
    found = 0
    for equation in jaxpr.eqns:
        found += equation.primitive.name == "scan" and equation.params["length"] == length
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    found += scans(inner, length)
    return found


@pytest.mark.parametrize("mode,count", [("none", 0), ("unconditional", 1), ("policy", 1), ("cfg", 1), ("q", 1)])
def test_the_program_holds_the_sampler_once(mode, count):
    learner, hp, data = job(mode)
    train = make_train(learner, 4, 2)
    assert scans(jax.make_jaxpr(train)(seed_keys(0, 2), hp, data).jaxpr, SAMPLER_STEPS) == count


def test_seeds_and_guidance_scales_of_one_program_are_those_of_single_runs():
    """Also: the scale is a leaf, and seeds do not meet."""
    learner, hp, data = job("policy")
    scales = jnp.array([0.0, 0.7, 3.0])
    swept = jax.tree.map(lambda x: jnp.full(3, x, jnp.float32), hp)
    swept = replace(swept, coda=replace(swept.coda, guidance_scale=scales))
    run = jax.jit(make_train(learner, 3, 1))
    _, together = run(seed_keys(0, 3), swept, data)
    one = jax.tree.map(lambda x: x[1:2], swept)
    _, alone = run(seed_keys(1, 1), one, data)
    for name in ("train/theta", "train/policy_distance", "train/fit_loss", "eval/episode_return"):
        assert np.allclose(together[name][:, 1:2], alone[name], atol=1e-5, equal_nan=True), name
    assert not np.allclose(together["train/policy_distance"][:, 0], together["train/policy_distance"][:, 1])


def test_lambda_zero_is_the_unconditional_baseline_bit_by_bit():
    results = []
    for mode in ("unconditional", "policy"):
        learner, hp, data = job(mode)
        hp = replace(hp, coda=replace(hp.coda, guidance_scale=0.0))
        results.append(jax.jit(make_train(learner, 4, 1))(seed_keys(0, 2), hp, data)[1])
    for name, value in results[0].items():
        assert np.array_equal(value, results[1][name], equal_nan=True), name


def test_mix_and_burn_in_say_whose_actions_are_learned_from():
    """Minibatches have the mean of the dataset, 0, or that of generated actions, the policy's -0.64."""
    changes = {"coda": CodaConfig("policy", num_samples=64, burn_in=1), "offline": replace(OFFLINE, batch_size=64)}
    learner, hp, data = job("policy", learning=Learning(base="analytic", initial=(-0.64, -0.65)), **changes)
    swept = jax.tree.map(lambda x: jnp.full(2, x, jnp.float32), hp)
    swept = replace(swept, coda=replace(swept.coda, mix=jnp.array([0.0, 1.0]), guidance_scale=jnp.full(2, 3.0)))
    _, metrics = jax.jit(make_train(learner, 2, 1))(seed_keys(0, 2), swept, data)
    mean = np.asarray(metrics["train/batch_mean"])  # [U, S, N]
    assert (np.abs(mean[0]) < 0.25).all(), "burn-in: the dataset's"
    assert (np.abs(mean[1, 0]) < 0.25).all() and (mean[1, 1] < -0.3).all()


def test_the_share_falls_with_the_error_of_generated_rewards():
    """alpha exp(-distrust e), a leaf: seeds 0 and 1 are the same run otherwise."""
    learner, hp, data = job("policy", learning=Learning(base="analytic", initial=(-0.64, -0.65)))
    swept = jax.tree.map(lambda x: jnp.full(2, x, jnp.float32), hp)
    swept = replace(swept, coda=replace(swept.coda, mix=jnp.full(2, 0.8), distrust=jnp.array([0.0, 2.0])))
    keys = jax.tree.map(lambda x: jnp.concatenate([x, x]), seed_keys(0, 1))
    _, metrics = jax.jit(make_train(learner, 1, 1))(keys, swept, data)
    share, error = (np.asarray(metrics[f"train/{name}"])[0] for name in ("generated_share", "reward_error"))
    spread = np.asarray(data.source.dataset.reward)[np.asarray(data.source.dataset.mask)].std()
    assert share[0] == np.float32(0.8) and error[0] == error[1] > 0.05
    assert np.isclose(share[1], 0.8 * np.exp(-2.0 * error[1] / spread), rtol=1e-5)


def test_denoiser_is_fitted_once_whatever_the_chunks():
    """`prepare` runs before the first update and never again."""

    @dataclass(frozen=True)
    class Counter:
        steps_per_update = 0

        def init(self, key, hp):
            return {"prepared": jnp.float32(0.0), "updates": jnp.float32(0.0)}

        def prepare(self, carry, data):
            return carry | {"prepared": carry["prepared"] + data}

        def update(self, carry, data=None):
            carry = carry | {"updates": carry["updates"] + 1}
            return carry, {"prepared": carry["prepared"]}

        def evaluate(self, carry, key):
            return {"return": carry["prepared"]}

        policy = staticmethod(lambda carry: carry)

    program = Program(Counter(), 4, 1)
    state = program.init(seed_keys(0, 3), ())
    advance = jax.jit(lambda state, num, data: program.advance(state, num, data, length=3))
    for num in (0, 3, 1):
        state, metrics = advance(state, jnp.int32(num), jnp.float32(5.0))
        if num:
            assert (np.asarray(metrics["train/prepared"])[:num] == 5.0).all()
    assert (state.carries["prepared"] == 5.0).all() and (state.carries["updates"] == 4.0).all()


def distances(learner, data, carries, scales):
    """Of generated joint actions from the policies, [scales, seeds]."""

    def one(carry, data, scale):
        made = learner.generate(replace(carry, coda=replace(carry.coda, guidance_scale=scale)), data, carry.key, 64)
        return diagnostics.policy_distance(learner.act(carry, made.obs), made.action)

    sweep = jax.jit(jax.vmap(jax.vmap(one, (0, None, None)), (None, None, 0)))
    return np.asarray(sweep(carries, data, jnp.asarray(scales)))


@pytest.mark.parametrize("mode", ["policy", "cfg"])
def test_coda_climbs_twin_peaks_which_the_dataset_alone_does_not(mode):
    """The paper's start beside the saddle; payoffs of at least 0.54 of 0.5625 for every seed, with a smaller denoiser
    and fit than in `results/coda`."""
    sizes = {
        "coda": CodaConfig(mode, num_samples=32),
        "offline": replace(OFFLINE, batch_size=32),
        "generator": GeneratorConfig(fit_steps=500, fit_batch_size=64),
        "unet": UNetConfig(features=8, levels=1, norm_groups=1),
        "edm": EDMConfig(num_steps=14),
        "game": GameData(),
    }
    learner, hp, data = job(mode, **sizes)
    state, metrics = jax.jit(make_train(learner, 100, 1))(seed_keys(0, 3), hp, data)
    assert (np.asarray(metrics["eval/episode_return"])[-1] >= 0.54).all()
    if mode == "policy":  # samples lie on the policy with the right scale, and are thrown off it by too large ones
        none, right, large = distances(learner, data, state.carries, (0.0, 1.0, 30.0))
        assert (none > 0.7).all() and (right < 0.1).all() and (large > 5 * right).all()
    learner, hp, data = job("none", **(sizes | {"coda": CodaConfig("none")}))
    _, metrics = jax.jit(make_train(learner, 100, 1))(seed_keys(0, 3), hp, data)
    assert (np.abs(np.asarray(metrics["train/theta"])[-1]) < 0.15).all()


def test_conditions_are_what_they_should_be():
    learner, hp, data = job("cfg")
    z = data.diffused.segments(data.diffused.starts[:5], 1)
    where = list(learner.generator.guided[0])
    assert np.array_equal(learner.generator.condition_of(z), z[:, 0, where])
    carry = learner.init(jax.random.key(0), hp)
    base = carry.offline.base
    base = replace(base, params={"actor": jnp.zeros((2, 1))})
    middle = replace(carry, offline=replace(carry.offline, base=base))
    assert np.allclose(learner._condition(middle, data), 0.0, atol=0.2), (
        "the median action is near 0, and 0 is its image"
    )
    learner, hp, data = job("q")
    assert np.array_equal(learner.generator.condition_of(z)[:, 0], z[:, 0, 2])


def test_relabelled_rewards_are_the_true_ones_or_nearly():
    """A model of 400 steps on Twin Peaks is nearer to the truth than what a poor denoiser made."""
    small = WorldModelConfig(model_hidden_sizes=(32, 32), model_members=2, model_elites=2)
    for relabel, bound in (("true", 1e-6), ("model", 0.3)):
        changes = {"coda": CodaConfig("policy", num_samples=64, relabel=relabel, relabel_steps=400), "model": small}
        learner, hp, data = job("policy", game=GameData(), **changes)
        hp = replace(hp, base=replace(hp.base, model_learning_rate=1e-2))
        carry = jax.jit(learner.prepare)(learner.init(jax.random.key(0), hp), data)
        made = learner.generate(carry, data, jax.random.key(1), 64).segments()
        relabelled = learner._relabelled(made, learner.rewards(carry, made))
        error = jnp.abs(relabelled.reward - learner.reward(made))[:, 0]
        assert error.mean() < bound < jnp.abs(made.reward - learner.reward(made))[:, 0].mean(), relabel


def test_any_learner_and_a_world_model_take_generated_segments():
    """Learned critics in `policy` mode with a share of each kind of segment; all that it reports is finite."""
    changes = {
        "learning": Learning(base="maddpg_bc"),
        "policy": PolicyConfig(sharing="fups_id", recurrent=True, recurrent_size=4, recurrent_head=False),
        "model": WorldModelConfig(
            rollouts=8, rollout_length=1, model_steps=2, model_hidden_sizes=(8,), warmup_updates=0
        ),
    }
    learner, hp, data = job("policy", **changes)
    state, metrics = jax.jit(make_train(learner, 2, 1))(seed_keys(0, 2), hp, data)
    assert not [name for name, x in metrics.items() if name.startswith("train") and not np.isfinite(x).all()]
    assert {"train/policy_distance", "train/model_error", "train/critic_loss"} <= set(metrics)
    obs = jnp.zeros((3, 1, 2, 1))
    carry = jax.tree.map(lambda x: x[0], state.carries)
    acted = learner.offline.base.actions(learner.offline.policy(carry.offline), obs[0])
    assert np.allclose(learner.act(carry, obs), acted, atol=1e-6)


def test_stochastic_policies_pull_by_their_own_log_probability():
    """IQL's Gaussian: (mu(o) - a) / std^2 for each action."""
    learner, hp, data = job("policy", learning=Learning(base="iql"), policy=PolicyConfig(hidden_sizes=(4,)))
    carry = learner.init(jax.random.key(0), hp)
    params = carry.offline.base.params
    log_std = jnp.array([[-1.0], [0.5]])
    base = replace(carry.offline.base, params={**params, "actor": {**params["actor"], "log_std": log_std}})
    carry = replace(carry, offline=replace(carry.offline, base=base))
    obs, action = jnp.zeros((3, 1, 2, 1)), jax.random.uniform(jax.random.key(1), (3, 1, 2, 1), minval=-0.9, maxval=0.9)
    expected = (learner.act(carry, obs) - action) * jnp.exp(-2 * log_std)
    assert np.allclose(learner.score(carry)(obs, action), expected, atol=1e-5)


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: CodaHyperparameters(guidance_scale=-1.0), "guidance_scale is -1.0; allowed: a number of at least 0"),
        (lambda: CodaHyperparameters(mix=1.5), r"mix is 1.5; allowed: a number in \[0, 1\]"),
        (lambda: CodaConfig("guided"), "mode is 'guided'; allowed: none, unconditional, policy, cfg, q"),
        (lambda: CodaConfig(num_samples=0), "num_samples is 0"),
        (lambda: CodaConfig(relabel="learned"), "relabel is 'learned'; allowed: none, model, true"),
        (
            lambda: job("policy", offline=OfflineConfig(horizon=4)),
            "horizon 4 with stride 1: length is 4; allowed: at most 1",
        ),
        (
            lambda: job("policy", game=GameData("gaussian", data_std=0.0)),
            "rows has 7 channels, all constant; allowed: at least one that varies",
        ),
        (lambda: job("policy", game=GameData("gaussian", data_mean=(0.1,))), "allowed: 2 numbers for each centre"),
        (lambda: GameData("normal"), "data is 'normal'; allowed: uniform, gaussian"),
        (
            lambda: job(
                "policy", env=Multiplication(num_agents=3), learning=Learning(base="analytic", initial=(0.1, 0.2))
            ),
            "start_at is .*; allowed: a number for each of 3 agents",
        ),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
