"""Sharing schemes and hypernetworks: exactness against each other, against agents run alone, and against closed
forms."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covey.policies import ActorCritic, PolicyConfig
from covey.policies.distributions import (
    categorical_entropy,
    categorical_log_prob,
    gaussian_entropy,
    gaussian_log_prob,
    mask_logits,
)
from covey.policies.networks import GRU, MLP, Leaf, dense, orthogonal

N, B, O, A = 3, 5, 6, 4  # noqa: E741
SHARINGS = ("fups", "fups_id", "fups_id_only", "fups_matched", "nops", "hyper_linear", "hyper_mlp")
SMALL = PolicyConfig(hidden_sizes=(8, 7), hypernet_hidden_sizes=(6,), recurrent_size=8)
NO_RESET = jnp.zeros((1, 1, B), bool)


def make(num_agents: int = N, global_size: int | None = None, **changes) -> ActorCritic:
    return ActorCritic(replace(SMALL, **changes), num_agents, O, A, global_size=global_size)


def outputs(ac: ActorCritic, params, obs, critic_input=None):
    """Logits [T, N, B, A] and values [T, N, B] of a sequence that starts an episode."""
    weights, (actor_memory, critic_memory) = ac.weights(params), ac.start(obs.shape[2])
    reset = jnp.zeros((obs.shape[0], 1, obs.shape[2]), bool)
    logits, _ = ac.policy(weights, obs, actor_memory, reset)
    values, _ = ac.value(weights, obs if critic_input is None else critic_input, critic_memory, reset)
    return logits, values


@pytest.fixture(scope="module")
def obs():
    return jax.random.normal(jax.random.key(1), (2, N, B, O))


# --- Initialisation ---


@pytest.mark.parametrize("sharing", [*SHARINGS, "nops_actors", "dico"])
def test_continuous_policies_start_with_the_standard_deviation_that_is_asked_for(sharing):
    ac = ActorCritic(replace(SMALL, sharing=sharing, initial_std=0.3), N, O, A, continuous=True)
    log_std = ac.log_std(ac.weights(ac.init(jax.random.key(0))))
    np.testing.assert_allclose(np.broadcast_to(np.exp(log_std), (N, 1, A)), 0.3, rtol=1e-6)


def test_bounded_standard_deviations_stay_below_their_bound():
    ac = ActorCritic(replace(SMALL, sharing="nops", initial_std=0.3, max_std=0.5), N, O, A, continuous=True)
    params = ac.init(jax.random.key(0))
    np.testing.assert_allclose(np.exp(ac.log_std(ac.weights(params))), 0.3, rtol=1e-6)
    for learned, std in ((0.0, 0.25), (1.0, 0.5 / (1.0 + np.exp(-1.0))), (50.0, 0.5), (-20.0, 0.5 * np.exp(-20.0))):
        params["log_std"]["value"] = jnp.full((N, A), learned)
        np.testing.assert_allclose(np.exp(ac.log_std(ac.weights(params))), std, rtol=1e-5)


@pytest.mark.parametrize("shape", [(7, 7), (5, 12), (12, 5), (9, 1)])
def test_orthogonal_is_orthonormal(shape):
    x = np.asarray(orthogonal(jax.random.key(0), shape), np.float64)
    gram = x.T @ x if shape[0] >= shape[1] else x @ x.T
    np.testing.assert_allclose(gram, np.eye(min(shape)), atol=2e-6)


def test_orthogonal_has_no_preferred_direction():
    """Entries of a uniformly random orthogonal matrix have mean 0 and variance 1 / n, and determinants either sign."""
    xs = np.asarray(jax.vmap(lambda k: orthogonal(k, (4, 4)))(jax.random.split(jax.random.key(0), 4000)))
    np.testing.assert_allclose(xs.mean(0), 0.0, atol=0.035)
    np.testing.assert_allclose((xs**2).mean(0), 0.25, atol=0.02)
    assert 0.45 < (np.linalg.det(xs) > 0).mean() < 0.55


def test_leaf_rms_is_that_of_its_initialisation():
    for leaf in (Leaf((8, 3), 2.0), Leaf((3, 8), 0.01), Leaf((6, 18), 1.0, blocks=3)):
        x = leaf.init(jax.random.key(0))
        assert x.shape == leaf.shape
        np.testing.assert_allclose(jnp.sqrt(jnp.mean(x**2)), leaf.rms, rtol=1e-4)


@pytest.mark.parametrize(
    "num_agents,embedding_dim,width", [(2, 4, 64), (4, 4, 64), (8, 4, 16), (20, 64, 16), (5, 3, 32)]
)
@pytest.mark.parametrize("head", ["full", "low_rank", "chunked"])
def test_exact_init_has_the_standard_scale(num_agents, embedding_dim, width, head):
    config = PolicyConfig(
        sharing="hyper_mlp",
        embedding_dim=embedding_dim,
        hypernet_hidden_sizes=(width,),
        hypernet_init="exact",
        hypernet_head=head,
        hypernet_chunk_size=100,
    )
    ac = ActorCritic(config, num_agents, 16, 5)
    weights = jax.jit(lambda key: ac.weights(ac.init(key)))(jax.random.key(0))
    for name in ("actor", "critic"):
        for leaf, spec in ac.networks[name].leaves().items():
            w = np.asarray(weights[name][leaf])
            rms = np.sqrt((w**2).mean())
            if spec.rms == 0.0:
                assert (w == 0.0).all()
            else:
                assert abs(rms / spec.rms - 1.0) < 1e-3, (leaf, rms / spec.rms)
                each = np.sqrt((w**2).mean(axis=(1, 2))) / spec.rms
                if head == "full":  # And no agent is far from it (products of two random factors spread more).
                    assert (abs(each - 1.0) < 0.2).all(), (leaf, each)


def test_paper_init_is_off_scale_for_mlps_and_right_for_the_linear_case():
    """The reference's figures: about 4.0 for n = 4, E = 4, H = 64; 1 for one-hot embeddings and no hidden layer."""

    def ratio(**changes):
        ac = ActorCritic(PolicyConfig(**changes), 4, 16, 5)

        def one(key):
            w = ac.weights(ac.init(key))["actor"]["hidden_1/kernel"]
            return jnp.sqrt(jnp.mean(w**2)) / ac.networks["actor"].leaves()["hidden_1/kernel"].rms

        return float(jnp.mean(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 8))))

    assert 3.3 < ratio(sharing="hyper_mlp", embedding_dim=4) < 4.7
    assert 2.4 < ratio(sharing="hyper_mlp", embedding_dim=8) < 3.4
    assert abs(ratio(sharing="hyper_linear") - 1.0) < 1e-4


@pytest.mark.parametrize("init", ["paper", "default"])
@pytest.mark.parametrize("head", ["low_rank", "chunked"])
def test_heads_that_the_paper_does_not_have_start_at_the_standard_scale(head, init):
    ac = ActorCritic(PolicyConfig(hypernet_head=head, hypernet_init=init), 4, 16, 5)
    weights = ac.weights(ac.init(jax.random.key(0)))
    for name in ("actor", "critic"):
        for leaf, spec in ac.networks[name].leaves().items():
            if len(spec.shape) == 2:
                np.testing.assert_allclose(jnp.sqrt(jnp.mean(weights[name][leaf] ** 2)), spec.rms, rtol=1e-4)


def test_default_init_is_that_of_any_dense_layer_for_biases_as_well():
    params = make(sharing="hyper_mlp", hypernet_init="default").init(jax.random.key(0))["actor"]
    for leaf in ("hidden_0/kernel", "hidden_0/bias", "output/bias"):
        head = params[f"{leaf}/head"]
        assert 0.5 < float(jnp.std(head)) * np.sqrt(head.shape[0]) < 1.6, leaf


def test_exact_init_is_finite_where_no_unit_of_the_trunk_is_active():
    """With two units, one seed in some has a trunk that gives 0 for every agent."""
    ac = make(2, sharing="hyper_mlp", hypernet_hidden_sizes=(2,), hypernet_init="exact")
    weights = jax.jit(jax.vmap(lambda key: ac.weights(ac.init(key))))(jax.random.split(jax.random.key(0), 64))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights))
    assert any((np.abs(w).max(axis=(1, 2, 3)) == 0).any() for w in weights["actor"].values() if w.ndim == 4)


def test_recurrent_trunks_start_orthogonal_and_others_do_not():
    def gram(**changes):
        params = make(sharing="hyper_mlp", embedding_dim=4, hypernet_hidden_sizes=(16,), **changes).init(
            jax.random.key(0)
        )
        kernel = params["actor"]["trunk_0/kernel"]  # [K, 4, 16]
        return kernel @ jnp.swapaxes(kernel, 1, 2)

    np.testing.assert_allclose(gram(recurrent=True), np.broadcast_to(2 * np.eye(4), (4, 4, 4)), atol=1e-5)
    assert np.abs(gram() - 2 * np.eye(4)).max() > 0.1


def test_generated_rows_are_orthogonal_in_the_linear_case():
    ac = make(sharing="hyper_linear")
    weights = ac.weights(ac.init(jax.random.key(0)))["actor"]
    for name, gain in (("hidden_0", np.sqrt(2)), ("hidden_1", np.sqrt(2)), ("output", 0.01)):
        for w in np.asarray(weights[f"{name}/kernel"], np.float64):
            gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
            np.testing.assert_allclose(gram, gain**2 * np.eye(len(gram)), atol=1e-5)


def test_embeddings_are_orthogonal_where_there_is_room():
    few = make(sharing="hyper_mlp", embedding_dim=4).init(jax.random.key(0))["embedding"]
    np.testing.assert_allclose(few @ few.T, 2.0 * np.eye(N), atol=1e-5)
    many = make(num_agents=6, sharing="hyper_mlp", embedding_dim=2).init(jax.random.key(0))["embedding"]
    np.testing.assert_allclose(many.T @ many, 2.0 * np.eye(2), atol=1e-5)


# --- Parameter counts: the reference's table for Dispersion, n = 4, two layers of 64, 16 observations, 5 actions ---


@pytest.mark.parametrize(
    "sharing,count", [("fups_id", 11_398), ("nops", 43_544), ("hyper_linear", 54_430), ("hyper_mlp", 711_446)]
)
def test_parameter_counts(sharing, count):
    assert ActorCritic(PolicyConfig(sharing=sharing), 4, 16, 5).count_parameters() == count


def test_matched_full_sharing_has_the_hypernetworks_parameter_count():
    matched = ActorCritic(PolicyConfig(sharing="fups_matched"), 4, 16, 5).count_parameters()
    assert abs(matched / 711_446 - 1.0) < 0.01


def test_linear_without_bias_has_nops_count():
    assert (
        make(sharing="hyper_linear", hypernet_bias=False).count_parameters() == make(sharing="nops").count_parameters()
    )


# --- Forward passes ---


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_agents_together_equal_agents_alone(sharing, recurrent, obs):
    """Row i of the agent axis is agent i's network on agent i's observations."""
    ac = make(sharing=sharing, recurrent=recurrent)
    params = ac.init(jax.random.key(0))
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(2), p.shape), params)
    logits, values = outputs(ac, params, obs)
    weights = ac.weights(params)
    x = ac.scheme.identify(obs)
    reset = jnp.zeros((2, 1, B), bool)
    for i in range(N):

        def own(tree, i=i):
            return jax.tree.map(lambda w: w[i : i + 1] if w.shape[0] == N else w, tree)

        for name, together in (("actor", logits), ("critic", values[..., None])):
            network = ac.networks[name]
            alone, _ = network.unroll(own(weights[name]), x[:, i : i + 1], network.start(1, B), reset, dense)
            np.testing.assert_allclose(alone[:, 0], together[:, i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_mlp_equals_plain_numpy(sharing, obs):
    ac = make(sharing=sharing)
    params = ac.init(jax.random.key(0))
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(2), p.shape), params)
    logits, _ = outputs(ac, params, obs)
    weights = {k: np.asarray(v, np.float64) for k, v in ac.weights(params)["actor"].items()}
    for i in range(N):
        x = np.asarray(obs[:, i], np.float64)
        ids = np.broadcast_to(np.eye(N)[i], (*x.shape[:-1], N))
        if sharing in ("fups_id", "fups_matched"):
            x = np.concatenate([x, ids], -1)
        elif sharing == "fups_id_only":
            x = ids
        layers = ["hidden_0", "hidden_1", "output"]
        for layer in layers:
            w, b = weights[f"{layer}/kernel"], weights[f"{layer}/bias"]
            x = x @ w[i if len(w) == N else 0] + b[i if len(b) == N else 0]
            x = np.maximum(x, 0.0) if layer != "output" else x
        np.testing.assert_allclose(logits[:, i], x, rtol=1e-4, atol=1e-5)


def test_gru_equals_flax(obs):
    """The cell, against Flax's own GRUCell with the same weights."""
    from flax import linen as nn

    network = GRU(O, A, hidden=8)
    keys = jax.random.split(jax.random.key(0), 20)
    weights = {
        name: 0.5 * jax.random.normal(key, (1, *leaf.shape))
        for key, (name, leaf) in zip(keys, network.leaves().items(), strict=False)
    }
    x, start = obs[:, :1], jax.random.normal(jax.random.key(3), (1, B, 8))
    _, memory = network.unroll(weights, x, start, jnp.zeros((2, 1, B), bool))
    split = {k: np.split(np.asarray(weights[f"cell/{k}"][0]), 3, axis=-1) for k in ("kernel", "bias", "recurrent")}
    cell = {"params": {}}
    for i, gate in enumerate("rzn"):
        cell["params"][f"i{gate}"] = {"kernel": split["kernel"][i], "bias": split["bias"][i]}
        cell["params"][f"h{gate}"] = {"kernel": split["recurrent"][i]}
    cell["params"]["hn"]["bias"] = np.asarray(weights["cell/recurrent_bias"][0])
    hidden = start[0]
    for t in range(2):
        embedded = jax.nn.relu(x[t, 0] @ weights["embed/kernel"][0] + weights["embed/bias"][0])
        hidden, _ = nn.GRUCell(8).apply(cell, hidden, embedded)
    np.testing.assert_allclose(memory[0], hidden, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "sharing,recurrent", [("fups", False), ("nops", False), ("nops", True), ("hyper_mlp", True), ("dico", False)]
)
def test_layer_norm_equals_flax_and_forgets_the_scale_of_observations(sharing, recurrent, obs):
    """Inputs and what leaves each hidden layer are normalised, in actor and critic."""
    from flax import linen as nn

    ac = make(sharing=sharing, recurrent=recurrent, layer_norm=True)
    params = ac.init(jax.random.key(0))
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(2), p.shape), params)
    for one, other in zip(outputs(ac, params, obs), outputs(ac, params, 5.0 + 100.0 * obs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    if sharing == "nops" and not recurrent:
        norm = nn.LayerNorm(use_scale=False, use_bias=False, epsilon=1e-5)
        weights = ac.weights(params)["critic"]
        x = norm.apply({}, obs[0])
        for layer in ("hidden_0", "hidden_1"):
            x = jnp.einsum("nbi,nio->nbo", x, weights[f"{layer}/kernel"]) + weights[f"{layer}/bias"][:, None]
            x = norm.apply({}, jax.nn.relu(x))
        x = jnp.einsum("nbi,nio->nbo", x, weights["output/kernel"]) + weights["output/bias"][:, None]
        np.testing.assert_allclose(outputs(ac, params, obs)[1][0], x[..., 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sharing", ["nops", "hyper_mlp"])
def test_memory_is_forgotten_at_a_reset_and_steps_equal_a_sequence(sharing, obs):
    ac = make(sharing=sharing, recurrent=True)
    weights = ac.weights(ac.init(jax.random.key(0)))
    memory = ac.start(B)[0]
    reset = jnp.array([[[False] * B], [[True, False, True, False, False]]])
    together, last = ac.policy(weights, obs, memory, reset)
    _, memory = ac.policy(weights, obs[:1], memory, reset[:1])
    second, stepped = ac.policy(weights, obs[1:], memory, reset[1:])
    fresh, _ = ac.policy(weights, obs[1:], jnp.zeros_like(memory), reset[1:])
    np.testing.assert_allclose(stepped, last, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(second, together[1:], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fresh[0, :, [0, 2]], second[0, :, [0, 2]], rtol=1e-6)
    assert not np.allclose(fresh[0, :, 1], second[0, :, 1], rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_centralised_critic_sees_the_state_and_no_id(sharing, recurrent):
    ac = make(sharing=sharing, recurrent=recurrent, global_size=9)
    params = ac.init(jax.random.key(0))
    state = jax.random.normal(jax.random.key(1), (2, 1, B, 9))
    weights, memory = ac.weights(params), ac.start(B)[1]
    values, _ = ac.value(weights, state, memory, jnp.zeros((2, 1, B), bool))
    assert values.shape == (2, N, B)
    assert ac.networks["critic"].inputs == 9
    same = np.allclose(values, values[:, :1])
    assert same == sharing.startswith("fups")  # One critic without ids has one value of a state.


def test_linear_without_bias_is_nops(obs):
    """One-hot ids and no offset: the same parameters, the same outputs, bit by bit."""
    nops, linear = make(sharing="nops"), make(sharing="hyper_linear", hypernet_bias=False)
    a, b = nops.init(jax.random.key(0)), linear.init(jax.random.key(0))
    for name in ("actor", "critic"):
        for leaf in nops.networks[name].leaves():
            np.testing.assert_array_equal(a[name][leaf], b[name][f"{leaf}/head"])
    for x, y in zip(outputs(nops, a, obs), outputs(linear, b, obs), strict=True):
        np.testing.assert_array_equal(x, y)
    assert nops.separate and linear.separate
    assert not make(sharing="hyper_linear").separate


@pytest.mark.parametrize("changes", [{"recurrent": True}, {"generate": "actor"}, {"continuous": True}])
def test_linear_without_bias_is_separate_only_where_all_is_generated(changes):
    """A GRU, an ungenerated critic and standard deviations serve all agents."""
    changes = dict(changes)
    continuous = changes.pop("continuous", False)
    config = replace(SMALL, sharing="hyper_linear", hypernet_bias=False, **changes)
    assert not ActorCritic(config, N, O, A, continuous=continuous).separate
    assert ActorCritic(replace(config, sharing="nops"), N, O, A, continuous=continuous).separate


def test_generator_does_not_see_observations_and_coupled_one_does(obs):
    """Gradient decoupling: the generated weights, hence d theta / d psi, do not depend on the observation."""
    ac = make(sharing="hyper_mlp")
    params = ac.init(jax.random.key(0))
    jaxpr = jax.make_jaxpr(ac.weights)(params)
    assert all(v.aval.shape != obs.shape for v in jaxpr.jaxpr.invars)
    coupled = make(sharing="hyper_mlp", hypernet_decoupled=False)
    params = coupled.init(jax.random.key(0))
    head = params["actor"]["hidden_0/kernel/head"]

    def trunk_gradient(x):
        grad = jax.grad(lambda p: outputs(coupled, p, x)[0].sum())(params)
        return grad["actor"]["trunk_0/kernel"]

    grad = trunk_gradient(obs)
    # Its trunk has inputs for the observation, and they receive gradient; the decoupled trunk has none.
    assert grad.shape[1] == O + SMALL.embedding_dim and bool(jnp.any(grad[:, :O] != 0))
    assert ac.init(jax.random.key(0))["actor"]["trunk_0/kernel"].shape[1] == SMALL.embedding_dim
    assert head.shape == (6, O, 8)


def test_decoupled_gradient_is_a_sum_of_jacobians_times_each_agents_mean(obs):
    """HyperMARL's equation 4: d loss / d psi = sum_i J_i Z_i, with J_i = d theta_i / d psi, which no observation is in,
    and Z_i = d loss / d theta_i, a mean over agent i's samples."""
    ac = make(sharing="hyper_mlp")
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(2), p.shape), ac.init(jax.random.key(0)))
    pull = jax.random.normal(jax.random.key(3), (2, N, B, A))  # d loss / d logits of each sample.

    def objective(weights):
        logits, _ = ac.policy(weights, obs, ac.start(B)[0], jnp.zeros((2, 1, B), bool))
        return jnp.mean(pull * logits)

    whole = jax.grad(lambda p: objective(ac.weights(p)))(params)
    per_agent = jax.grad(lambda w: objective(ac.weights(params) | {"actor": w}))(ac.weights(params)["actor"])  # Z
    jacobian = jax.jacrev(lambda p: ac.weights(p)["actor"])(params)  # leaf -> psi -> [N, *theta, *psi]
    for path, grad in jax.tree_util.tree_leaves_with_path({k: whole[k] for k in ("embedding", "actor")}):
        total = np.zeros(grad.shape)
        for leaf, z in per_agent.items():
            j = jacobian[leaf]
            for step in path:
                j = j[step.key]
            for i in range(N):
                total += np.tensordot(np.asarray(z[i], np.float64), np.asarray(j[i], np.float64), z.ndim - 1)
        np.testing.assert_allclose(grad, total, rtol=1e-3, atol=1e-6, err_msg=jax.tree_util.keystr(path))


def test_only_a_coupled_generators_jacobian_depends_on_the_observation():
    """The gradient for the head of the output bias, whose Z_i is the mean of d loss / d logits alone: for other
    observations it stays the same with decoupling, and does not without (the paper's ablation, weights per sample)."""

    def head_gradient(ac, params, x):
        pull = jax.random.normal(jax.random.key(3), (1, N, B, A))
        grad = jax.grad(lambda p: jnp.mean(pull * outputs(ac, p, x)[0]))(params)
        return np.asarray(grad["actor"]["output/bias/head"])

    one, other = jax.random.normal(jax.random.key(4), (2, 1, N, B, O))
    for decoupled in (True, False):
        ac = make(sharing="hyper_mlp", hypernet_decoupled=decoupled)
        params = ac.init(jax.random.key(0))
        a, b = head_gradient(ac, params, one), head_gradient(ac, params, other)
        assert np.abs(a).max() > 1e-3
        assert np.allclose(a, b, rtol=1e-5, atol=1e-7) == decoupled


def test_without_reset_fan_generated_weights_miss_the_standard_scale_of_every_layer():
    """The ablation's heads start like any dense layer (variance 1 / rows), whatever the layer that they generate: the
    output of an actor is then two orders too large, where the paper's start is off by one factor for all layers."""

    def ratios(style):
        ac = ActorCritic(PolicyConfig(sharing="hyper_mlp", hypernet_init=style), 4, 16, 5)
        weights = ac.weights(ac.init(jax.random.key(0)))["actor"]
        leaves = ac.networks["actor"].leaves()
        return np.array(
            [
                float(jnp.sqrt(jnp.mean(weights[f"{layer}/kernel"] ** 2))) / leaves[f"{layer}/kernel"].rms
                for layer in ("hidden_0", "hidden_1", "output")
            ]
        )

    without, paper, exact = ratios("default"), ratios("paper"), ratios("exact")
    assert without[2] > 100 * without[0] and without[2] > 50 * paper[2]
    assert paper.max() < 1.3 * paper.min()
    np.testing.assert_allclose(exact, 1.0, atol=1e-3)


def test_coupled_generator_equals_one_sample_at_a_time(obs):
    """Per-sample generation against weights written out for each sample."""
    ac = make(sharing="hyper_mlp", hypernet_decoupled=False)
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(2), p.shape), ac.init(jax.random.key(0)))
    logits, _ = outputs(ac, params, obs)
    own = {k: np.asarray(v, np.float64) for k, v in params["actor"].items()}
    leaves = list(ac.networks["actor"].leaves())
    for t, i, b in [(0, 0, 0), (1, 2, 4), (0, 1, 3)]:
        x = np.asarray(obs[t, i, b], np.float64)
        z = np.concatenate([x, np.asarray(params["embedding"][i], np.float64)])
        for layer in ("hidden_0", "hidden_1", "output"):
            made = {}
            for part in ("kernel", "bias"):
                k = leaves.index(f"{layer}/{part}")
                f = np.maximum(z @ own["trunk_0/kernel"][k] + own["trunk_0/bias"][k], 0.0)
                made[part] = np.tensordot(f, own[f"{layer}/{part}/head"], 1) + own[f"{layer}/{part}/head_bias"]
            x = x @ made["kernel"] + made["bias"]
            x = np.maximum(x, 0.0) if layer != "output" else x
        np.testing.assert_allclose(logits[t, i, b], x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"hypernet_shared_trunk": True},
        {"hypernet_hidden_sizes": (6, 5)},
        {"embedding": "one_hot"},
        {"separate_embeddings": True},
        {"generate": "actor"},
        {"hypernet_head": "low_rank", "hypernet_rank": 2},
        {"hypernet_head": "chunked", "hypernet_chunk_size": 10},
        {"hypernet_init": "default"},
        {"hypernet_bias": False},
        {"sharing": "hyper_linear", "embedding": "learned"},
    ],
)
def test_hypernetwork_options_run_and_every_parameter_learns(changes, obs):
    ac = make(**({"sharing": "hyper_mlp"} | changes))
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(2), p.shape), ac.init(jax.random.key(0)))
    grads = jax.grad(lambda p: sum(jnp.sum(jnp.tanh(y)) for y in outputs(ac, p, obs)))(params)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert bool(jnp.any(grad != 0)), jax.tree_util.keystr(path)


def test_low_rank_and_chunked_heads_are_smaller():
    full = PolicyConfig(sharing="hyper_mlp")
    size = ActorCritic(full, 4, 16, 5).count_parameters()
    for changes in ({"hypernet_head": "low_rank"}, {"hypernet_head": "chunked"}):
        assert ActorCritic(replace(full, **changes), 4, 16, 5).count_parameters() < 0.6 * size


def test_equal_configs_are_equal_and_hash_alike():
    assert make() == make() and hash(make()) == hash(make())
    assert make() != make(embedding_dim=5)
    assert MLP(3, 2) == MLP(3, 2)


# --- Distributions, against SciPy ---


def test_distributions_equal_scipy():
    from scipy import stats

    rng = np.random.default_rng(0)
    logits, action = rng.normal(size=(10, 4)).astype(np.float32), rng.integers(0, 4, 10)
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(categorical_log_prob(logits, action), np.log(probs[np.arange(10), action]), rtol=1e-5)
    np.testing.assert_allclose(categorical_entropy(jnp.asarray(logits)), stats.entropy(probs, axis=-1), rtol=1e-5)
    mean, log_std, x = rng.normal(size=(10, 3)), rng.normal(size=3), rng.normal(size=(10, 3))
    expected = stats.norm(mean, np.exp(log_std)).logpdf(x).sum(-1)
    np.testing.assert_allclose(gaussian_log_prob(mean, log_std, x), expected, rtol=1e-4)
    own = np.array([True, False, True])[: x.shape[-1]]
    np.testing.assert_allclose(
        gaussian_log_prob(mean, log_std, x, own),
        gaussian_log_prob(mean[..., own], log_std[..., own], x[..., own]),
        rtol=1e-6,
    )
    np.testing.assert_allclose(gaussian_entropy(log_std, own), gaussian_entropy(log_std[..., own]), rtol=1e-6)
    np.testing.assert_allclose(gaussian_entropy(log_std), stats.norm(0, np.exp(log_std)).entropy().sum(), rtol=1e-5)


def test_masked_actions_have_probability_zero_and_finite_gradients():
    mask = jnp.array([[True, False, True, False]])

    def entropy_and_log_prob(logits):
        masked = mask_logits(logits, mask)
        return jnp.sum(categorical_entropy(masked) + categorical_log_prob(masked, jnp.array([2])))

    logits = jnp.array([[0.0, 50.0, 0.0, -3.0]])
    assert jnp.all(jnp.isfinite(jax.grad(entropy_and_log_prob)(logits)))
    np.testing.assert_allclose(categorical_entropy(mask_logits(logits, mask)), np.log(2.0), rtol=1e-6)
    samples = jax.random.categorical(jax.random.key(0), mask_logits(logits, mask), shape=(2000, 1))
    assert set(np.unique(samples)) == {0, 2}


# --- Bad input ---


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"embedding_dim": 0}, "embedding_dim is 0"),
        ({"sharing": "hyper"}, "sharing is 'hyper'; allowed: fups"),
        ({"hidden_sizes": (64, 0)}, "hidden_sizes"),
        ({"sharing": "hyper_mlp", "hypernet_hidden_sizes": ()}, "hyper_linear"),
        ({"hypernet_rank": 0}, "hypernet_rank is 0"),
        ({"initial_std": 0.0}, "initial_std is 0.0; allowed: a number above 0"),
        ({"max_std": 0.5}, r"max_std is 0.5; allowed: a number above initial_std \(1.0\), or None"),
        ({"hypernet_decoupled": False, "recurrent": True}, "feed-forward"),
        ({"sharing": "fups_matched", "hidden_sizes": ()}, "hidden_sizes is empty; fups_matched needs a layer"),
        ({"desired_snd": float("nan")}, "desired_snd is nan; allowed: at least 0, or -1"),
        ({"desired_snd": float("inf")}, "desired_snd is inf"),
    ],
)
def test_bad_policy_settings_say_what_is_allowed(changes, message):
    with pytest.raises(ValueError, match=message):
        PolicyConfig(**changes)
