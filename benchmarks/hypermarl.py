"""Measurements around HyperMARL that are not training curves (docs/hypermarl_findings.md).

    python benchmarks/hypermarl.py parameters      # parameters against the number of agents; counts, exact
    python benchmarks/hypermarl.py gradients       # how noisy policy gradients are under each sharing scheme
    python benchmarks/hypermarl.py conflict        # whether agents' policy gradients oppose each other
    python benchmarks/hypermarl.py snd             # how differently agents act after the toy and Dispersion studies
    python benchmarks/hypermarl.py speed           # time and memory of recurrent policies for 2 to 512 agents
    python benchmarks/hypermarl.py unseen          # an agent that training left out: its embedding alone is fitted
    python benchmarks/hypermarl.py embeddings      # cosine distances of embeddings after the Navigation study

Each writes a table of its name in results/hypermarl, row by row (NAME.csv.part until it is whole).
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from safetensors.numpy import load_file
from timing import compile_once, time_calls, write_table

from algos.tasks import TASKS
from covey.experiment import make_train, seed_keys, study
from covey.experiment.checkpoint import from_arrays
from covey.experiment.program import Program
from covey.experiment.statistics import bootstrap_interval, iqm
from covey.learners.base import Metrics
from covey.learners.losses import normalize
from covey.learners.ppo import PPO, Batch, PPOCarry
from covey.metrics import diversity as snd
from covey.metrics import embeddings, gradients
from covey.policies import ActorCritic, PolicyConfig
from covey.policies.hypernet import Hypernetwork

OUT = Path("results/hypermarl")
Row = dict[str, Any]
HYPER = PolicyConfig("hyper_mlp", embedding_dim=4, hypernet_hidden_sizes=(64,))
VARIANTS = {
    "fups_id": PolicyConfig("fups_id"),
    "nops": PolicyConfig("nops"),
    "hyper_linear": PolicyConfig("hyper_linear"),
    "hyper_mlp": HYPER,
    "hyper_mlp without decoupling": replace(HYPER, hypernet_decoupled=False),
}


@dataclass(frozen=True)
class Args:
    """What to measure."""

    what: tyro.conf.Positional[Literal["parameters", "speed", "gradients", "conflict", "snd", "unseen", "embeddings"]]
    """The table to write."""
    runs: Path = Path("runs/studies")
    """snd, embeddings: where the studies' runs are."""
    studies: tuple[str, ...] = ("toy", "dispersion")
    """snd: whose runs, of their small variants."""
    games: tuple[Literal["specialisation", "synchronisation"], ...] = ("specialisation", "synchronisation")
    """conflict, unseen: which games."""
    agents: tuple[int, ...] = (2, 4, 8)
    """conflict: numbers of agents."""
    repeats: int = 7
    """speed: rounds of three calls each."""
    seeds: int = 10
    """gradients, conflict, unseen: seeds 0, 1, ... of each row."""
    updates: int = 20
    """gradients: PPO updates, each of which is measured before it is made (conflict: all of the game's preset)."""
    minibatches: int = 8
    """gradients: minibatches that a rollout is split into."""


def intervals(columns: Mapping[str, np.ndarray], form: str) -> dict[str, str]:
    """Per column of values [S], one for each seed: interquartile mean and 95 % bootstrap interval, written so."""
    found = {}
    for name, values in columns.items():
        low, high = bootstrap_interval(values)
        found |= {name: f"{iqm(values):{form}}", f"{name}_low": f"{low:{form}}", f"{name}_high": f"{high:{form}}"}
    return found


# --- Parameters ---


def parameters(args: Args) -> Iterator[Row]:
    """Trained numbers of actor and critic on Dispersion's networks (16 observations, 9 actions, two layers of 64)."""
    schemes = {name: VARIANTS[name] for name in ("fups_id", "nops", "hyper_linear", "hyper_mlp")} | {
        "hyper_mlp, low-rank heads": replace(HYPER, hypernet_head="low_rank"),
        "hyper_mlp, chunked heads": replace(HYPER, hypernet_head="chunked"),
    }
    for num_agents in (4, 8, 16, 32, 64, 128, 256, 512, 1024):
        for name, config in schemes.items():
            count = ActorCritic(config, num_agents, 16, 9).count_parameters()
            yield {"agents": num_agents, "sharing": name, "parameters": count}


# --- Speed ---


def speed(args: Args) -> Iterator[Row]:
    """One step of recurrent actors, and the gradient of a step, as in the paper's appendix F.4: 128 samples of each
    agent, a GRU and layers of 64, embeddings of 64; weights are generated in each call. Schemes take turns."""
    for num_agents in (2, 4, 8, 16, 32, 64, 128, 256, 512):
        programs = {}
        for sharing in ("fups_id", "nops", "hyper_linear", "hyper_mlp"):
            config = PolicyConfig(sharing, recurrent=True, recurrent_size=64, embedding_dim=64)
            networks = ActorCritic(config, num_agents, 16, 9)
            params = {name: part for name, part in networks.init(jax.random.key(0)).items() if name != "critic"}
            obs = jax.random.normal(jax.random.key(1), (1, num_agents, 128, 16))
            memory, reset = networks.start(128)[0], jnp.zeros((1, 1, 128), jnp.bool_)

            def forward(params: Any, obs: Any, memory: Any, reset: Any, networks: Any = networks) -> Any:
                actor = {"actor": networks.networks["actor"]}
                return networks.policy(networks.scheme.weights(params, actor), obs, memory, reset)

            def backward(*inputs: Any, forward: Any = forward) -> Any:
                return jax.grad(lambda p: jnp.mean(jnp.square(forward(p, *inputs[1:])[0])))(inputs[0])

            inputs = (params, obs, memory, reset)
            compiled = {"forward": compile_once(forward, *inputs), "gradient": compile_once(backward, *inputs)}
            programs[sharing] = compiled, inputs
        seconds = {(sharing, what): [] for sharing in programs for what in ("forward", "gradient")}
        for _ in range(args.repeats):  # In turn, so that a slow moment of the machine hits all alike.
            for sharing, what in seconds:
                compiled, inputs = programs[sharing]
                seconds[sharing, what] += time_calls(lambda c=compiled[what], i=inputs: c.call(*i), 3)
        for sharing, (compiled, (params, *_)) in programs.items():
            size = sum(leaf.size for leaf in jax.tree.leaves(params))
            row: Row = {"agents": num_agents, "sharing": sharing, "actor_parameters": size}
            for what in ("forward", "gradient"):
                median = statistics.median(seconds[sharing, what])
                row[f"{what}_ms"] = round(1e3 * median, 3)
                row[f"{what}_to_nops"] = round(median / statistics.median(seconds["nops", what]), 3)
                row[f"{what}_mib"] = round(compiled[what].temporary_bytes / 2**20, 2)
            row["parameters_mib"] = round(4 * size / 2**20, 3)
            yield row


# --- Gradients ---


@dataclass(frozen=True)
class MeasuredPPO(PPO):
    """PPO that says, before each update, how much its policy gradient differs between minibatches of the rollout."""

    minibatches: int = 8

    def _optimise(self, carry: PPOCarry, batch: Batch, key: jax.Array) -> tuple[Any, Any, Metrics]:
        params, optimizer, metrics = super()._optimise(carry, batch, key)
        return params, optimizer, metrics | self._measure(carry, *self._parts(batch, key))

    def _parts(self, batch: Batch, key: jax.Array) -> tuple[Batch, jax.Array]:
        """The rollout with samples on axis 2, and the samples of each minibatch, int32[minibatches, M]."""
        # Scaled once over the rollout: scaling each minibatch by itself would be noise of another kind.
        scaled = normalize(batch.advantage, self.config.normalize_advantages)
        merged, _ = self._minibatches(batch._replace(advantage=scaled), key)
        return merged, jax.random.permutation(key, merged.obs.shape[2]).reshape(self.minibatches, -1)

    def _gradient(self, carry: PPOCarry, part: Batch) -> Any:
        """Of the policy's loss on samples whose advantages are scaled."""
        plain = replace(self, config=replace(self.config, normalize_advantages="none"))
        return jax.grad(lambda p: plain.loss(p, part, carry.hp)[1]["policy_loss"])(carry.params)

    def _measure(self, carry: PPOCarry, batch: Batch, order: jax.Array) -> Metrics:
        grads = jax.lax.map(lambda index: self._gradient(carry, jax.tree.map(lambda x: x[:, :, index], batch)), order)
        noise = gradients.gradient_noise(grads)
        return {
            "noise_trace": noise.trace,
            "noise_signal": noise.signal,
            "coordinate_variance": gradients.coordinate_variance_compat(grads),
        }


def noise(args: Args) -> Iterator[Row]:
    """Dispersion, 4 agents, the paper's PPO, networks of 32-32 (per-sample weights are dear): noise at each update of a
    run, averaged over updates."""
    preset = TASKS["dispersion"]["paper"]
    for name, config in VARIANTS.items():
        config = replace(config, hidden_sizes=(32, 32), hypernet_hidden_sizes=(16,))
        learner = MeasuredPPO(preset.env, config, preset.ppo, num_updates=args.updates, minibatches=args.minibatches)
        train = jax.jit(make_train(learner, args.updates, num_evaluations=1))
        _, metrics = train(seed_keys(0, args.seeds), preset.hp)
        means = {
            key: np.asarray(metrics[f"train/{key}"], np.float64).mean(axis=0)  # [S]
            for key in ("noise_trace", "noise_signal", "coordinate_variance")
        }
        # Over updates averaged first: one update's signal can be below 0.
        ratio = means["noise_trace"] / means["noise_signal"]
        row: Row = {"sharing": name, "parameters": learner.actor_critic.count_parameters()}
        row |= {"seeds": args.seeds, "updates": args.updates, "minibatches": args.minibatches}
        row |= intervals({**means, "noise_to_signal": ratio}, ".4g")
        yield row


# --- Conflict ---


@dataclass(frozen=True)
class OpposedPPO(MeasuredPPO):
    """PPO that says, before each update, how far agents' policy gradients on the rollout oppose each other.

    cosine: mean over pairs, with respect to all of the actor's parameters (`gradient_conflict`).
    cosine_shared: the same with respect to those that more than one agent uses.
    cosine_self: mean cosine of an agent's own gradients on two halves of the rollout: how much of them is signal.
    """

    minibatches: int = 2

    def _measure(self, carry: PPOCarry, batch: Batch, order: jax.Array) -> Metrics:
        agents = self.env.num_agents

        def gradient(own: jax.Array) -> Any:
            """One agent's, on each half: the others' advantages are 0."""
            masked = batch._replace(advantage=batch.advantage * own[:, None])

            def half(index: jax.Array) -> Any:
                return self._gradient(carry, jax.tree.map(lambda x: x[:, :, index], masked))

            return jax.lax.map(half, order)

        halves = jax.lax.map(gradient, jnp.eye(agents))  # leaves [N, 2, ...]
        whole = jax.tree.map(lambda x: jnp.mean(x, axis=1), halves)
        return {
            "cosine": gradients.gradient_conflict(whole),
            "cosine_shared": gradients.gradient_conflict(self._shared(whole)),
            "cosine_self": jnp.mean(jax.vmap(gradients.gradient_conflict)(halves)),
        }

    def _shared(self, grads: Any) -> Any:
        """The actor's parameters that serve several agents, of gradients [N, ...]: all but a one-hot id's rows, an
        embedding's, and a one-hot embedding's head."""
        actor = dict(grads["actor"])
        if self.policy_config.sharing in ("fups_id", "fups_id_only"):
            first = "hidden_0/kernel"  # [N, I, H]; the id comes last.
            actor[first] = actor[first][:, : actor[first].shape[1] - self.env.num_agents]
        if self.policy_config.sharing == "hyper_linear":
            actor = {name: leaf for name, leaf in actor.items() if name.endswith("head_bias")}
        return actor


def conflict(args: Args) -> Iterator[Row]:
    """Matching games with the settings of the toy study (60 000 steps of PPO): cosines of agents' policy gradients,
    averaged over all updates of a run and over its first and last fifth. NoPS has no parameter in common: 0."""
    schemes = {name: VARIANTS[name] for name in ("fups_id", "hyper_linear", "hyper_mlp")}
    schemes = {"fups": PolicyConfig("fups"), "fups_id_only": PolicyConfig("fups_id_only")} | schemes
    for game, num_agents, (name, config) in itertools.product(args.games, args.agents, schemes.items()):
        preset = TASKS[game]["small"]
        env = replace(preset.env, num_agents=num_agents)
        learner = OpposedPPO(env, replace(config, hidden_sizes=preset.policy.hidden_sizes), preset.ppo)
        num_updates = preset.run.updates(preset.ppo.steps_per_update)
        train = jax.jit(make_train(learner, num_updates, num_evaluations=1))
        _, metrics = train(seed_keys(0, args.seeds), preset.hp)
        fifth = num_updates // 5
        cosines = {key: np.asarray(metrics[f"train/cosine{key}"], np.float64) for key in ("", "_shared", "_self")}
        columns = {f"cosine{key}": values.mean(axis=0) for key, values in cosines.items()}  # [S]
        columns |= {"first_fifth": cosines[""][:fifth].mean(axis=0), "last_fifth": cosines[""][-fifth:].mean(axis=0)}
        columns["reward"] = np.asarray(metrics["eval/reward"][-1], np.float64).mean(axis=-1)
        row: Row = {"game": game, "agents": num_agents, "sharing": name, "seeds": args.seeds}
        row |= {"updates": num_updates}
        row |= intervals(columns, ".3f")
        yield row


# --- Diversity ---


def diversity(args: Args) -> Iterator[Row]:
    """System neural diversity of the policies that the studies' small variants ended with, per seed: by Jensen-Shannon
    distance and by total variation, of continuous policies by 2-Wasserstein and by Hellinger distance. The schemes of a
    panel are asked about one pool: what the agents of all of its runs see, 2 environments x one episode of each seed.
    Policies are sampled, as in training."""
    for name in args.studies:
        read = study.read(Path("results/studies") / f"{name}.toml", small=True)
        panels: dict[tuple[str, ...], dict[str, tuple[Any, Any]]] = {}
        for cell in study.cells(read):
            path = args.runs / read.name / cell.name / "policy.safetensors"
            if not path.exists():
                print(f"{cell.name}: no run; {cell.command}")
                continue
            learner = study.prepare(cell).planned.learner
            networks = learner.actor_critic
            like = jax.eval_shape(jax.vmap(networks.init), seed_keys(0, read.seeds))
            panel = panels.setdefault(study.panel_of(read, cell.levels), {})
            panel[cell.levels[read.compare]] = learner, from_arrays(load_file(path), like)
        for panel, policies in panels.items():
            for sharing, measured in _diversities(policies).items():
                for distance, values in measured.items():
                    row: Row = {"study": read.name, "panel": "-".join(panel), "sharing": sharing}
                    row |= {"distance": distance, "seeds": len(values)} | intervals({"snd": values}, ".3f")
                    yield row | {"each": " ".join(f"{value:.3f}" for value in values)}


def _diversities(policies: Mapping[str, tuple[Any, Any]]) -> dict[str, dict[str, np.ndarray]]:
    """SND per seed [S] of each scheme, by distance, on the pool of them all; `policies` are learners and parameters
    [S, ...]."""

    def seen(learner: Any, params: Any) -> Any:
        networks, env = learner.actor_critic, learner.env

        def one(params: Any, key: jax.Array) -> Any:
            act = snd.sampling(networks, params, env.action_space())
            return snd.collect_pool(env, act, networks.start(2)[0], 2, learner.eval_steps, key)

        num_seeds = len(jax.tree.leaves(params)[0])
        pools = jax.jit(jax.vmap(one))(params, seed_keys(0, num_seeds))
        return snd.join_pools(*(jax.tree.map(lambda x, s=s: x[s], pools) for s in range(num_seeds)))

    pool = snd.join_pools(*(seen(*policy) for policy in policies.values()))

    def measure(learner: Any, params: Any) -> dict[str, np.ndarray]:
        def one(params: Any) -> dict[str, jax.Array]:
            networks = learner.actor_critic
            outputs = snd.policy_outputs(networks, params, pool)  # [N, P, A]
            if networks.continuous:
                log_std = networks.log_std(networks.weights(params))
                apart = {
                    "wasserstein": snd.wasserstein(outputs, jnp.exp(log_std)),
                    "hellinger": snd.hellinger(outputs, log_std),
                }
            else:
                apart = {
                    "jensen_shannon": snd.jensen_shannon(outputs, pool.flat_mask),
                    "total_variation": snd.total_variation(outputs, pool.flat_mask),
                }
            return {name: snd.snd(matrix) for name, matrix in apart.items()}

        return jax.tree.map(lambda x: np.asarray(x, np.float64), jax.jit(partial(jax.lax.map, one))(params))

    return {sharing: measure(*policy) for sharing, policy in policies.items()}


# --- Agents unseen in training ---


@dataclass(frozen=True)
class Partial(Hypernetwork):
    """A hypernetwork of which the last agent learns nothing ("others"), or of which nothing is learned but the last
    agent's embedding ("embedding")."""

    learned: Literal["all", "others", "embedding"] = "all"

    def weights(self, params: Any, networks: Any) -> Any:
        stop = jax.lax.stop_gradient
        if self.learned == "embedding":
            last = jnp.arange(self.num_agents)[:, None] == self.num_agents - 1
            table = jnp.where(last, params["embedding"], stop(params["embedding"]))
            return super().weights(stop(params) | {"embedding": table}, networks)
        weights = super().weights(params, networks)
        if self.learned == "others":
            weights = jax.tree.map(lambda w: w.at[-1].set(stop(w[-1])), weights)
        return weights


def unseen(args: Args) -> Iterator[Row]:
    """Matching games of 4 agents: the last one acts along, but nothing learns from it while the others (and with them
    the generator) are trained; then one with a random embedding takes its place, and these 4 numbers alone are fitted,
    in as many steps. Greedy reward per step."""
    for game in args.games:
        preset = TASKS[game]["small"]
        num_updates = preset.run.updates(preset.ppo.steps_per_update)

        def trained(
            learned: Literal["all", "others", "embedding"], params: Any = None, preset: Any = preset,
            num_updates: int = num_updates,
        ) -> tuple[Any, Any]:  # fmt: skip
            learner = PPO(preset.env, replace(HYPER, hidden_sizes=preset.policy.hidden_sizes), preset.ppo)
            networks = learner.actor_critic
            scheme = Partial(**vars(networks.scheme), learned=learned)
            object.__setattr__(networks, "scheme", scheme)
            program = Program(learner, num_updates, num_evaluations=1)
            state = jax.jit(program.init)(seed_keys(0, args.seeds), preset.hp)
            if params is not None:
                state = state._replace(carries=replace(state.carries, params=params))
            state, metrics = jax.jit(partial(program.advance, length=num_updates))(state, jnp.int32(num_updates))
            return state.carries.params, metrics["eval/reward"][-1]  # [S, N]

        _, together = trained("all")
        params, left_out = trained("others")
        newcomers = jax.random.normal(jax.random.key(1), (args.seeds, HYPER.embedding_dim))
        newcomers *= jnp.sqrt(2.0) / jnp.linalg.norm(newcomers, axis=1, keepdims=True)  # As embeddings start.
        params["embedding"] = params["embedding"].at[:, -1].set(newcomers)
        still = replace(preset, hp=replace(preset.hp, learning_rate=1e-12))
        before = trained("embedding", params, still)[1]
        fitted, after = trained("embedding", params)
        for name, part in params.items():
            same = jax.tree.map(lambda a, b: np.array_equal(a, b), part, fitted[name])
            assert name == "embedding" or all(jax.tree.leaves(same)), f"{name} was not to change"
        stages = {"all trained together": together, "last agent left out": left_out}
        stages |= {"random embedding in its place": before, "that embedding fitted": after}
        for stage, reward in stages.items():
            values = np.asarray(reward, np.float64)
            row: Row = {"game": game, "agents": 4, "seeds": args.seeds, "stage": stage}
            row |= intervals({"team": values.mean(axis=1), "last_agent": values[:, -1]}, ".4g")
            yield row


# --- Embeddings ---


def distances(args: Args) -> Iterator[Row]:
    """Mean cosine distance between agents' embeddings after Navigation with 4 agents, per scenario."""
    for goals in ("4_same", "4_half", "4_different"):
        path = args.runs / "navigation-small" / f"{goals}-hyper_mlp" / "policy.safetensors"
        if not path.exists():
            print(f"{goals}: no run; python -m covey.experiment.study results/studies/navigation.toml --small")
            continue
        tables = [value for key, value in load_file(path).items() if key.endswith("embedding")]
        result = embeddings.distance_test(jnp.asarray(tables[0]))
        row: Row = {"goals": goals, "seeds": tables[0].shape[0], "mean": f"{result.mean:.4f}"}
        yield row | {"standard_deviation": f"{result.deviation:.4f}", "p_value_against_1": f"{result.p_value:.4g}"}


MEASUREMENTS: dict[str, Callable[[Args], Iterator[Row]]] = {
    "parameters": parameters,
    "speed": speed,
    "gradients": noise,
    "conflict": conflict,
    "snd": diversity,
    "unseen": unseen,
    "embeddings": distances,
}


if __name__ == "__main__":
    args = tyro.cli(Args, description=__doc__)
    write_table(OUT / f"{args.what}.csv", MEASUREMENTS[args.what](args), " ".join(["python", *sys.argv]))
