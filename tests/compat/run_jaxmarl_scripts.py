"""Run JaxMARL's training scripts, unchanged, on this package's environments, and print what came of it as a table.

    python tests/compat/run_jaxmarl_scripts.py --jaxmarl CHECKOUT [--scripts ippo] [--envs dispersion]

A developer's tool: it needs a checkout of JaxMARL (its wheel has no scripts) and what the scripts import: jaxmarl,
hydra-core, omegaconf, wandb, distrax, flashbax, matplotlib. Each script runs in an interpreter of its own, for a few
updates. One of JaxMARL's environments runs along: a script that fails on it has not failed because of ours.
Exits with 1 where one of ours fails and JaxMARL's does not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIME_LIMIT = 900  # seconds for one script on one environment
ROOT = Path(__file__).resolve().parents[2]
THEIRS = "MPE_simple_spread_v3"
ENVS = (THEIRS, "dispersion", "specialisation", "synchronisation", "navigation_discrete", "harvest_small")

_ON_POLICY = "NUM_ENVS=4 NUM_STEPS=104 TOTAL_TIMESTEPS=1248 UPDATE_EPOCHS=2 NUM_MINIBATCHES=2 ENV_NAME={env}"
# One seed: with two, and jaxlib 0.10.2 on two cores, scripts can hang in XLA, on JaxMARL's MPE as on ours.
_Q_LEARNING = (
    "+alg=ql_rnn_mpe alg.NUM_ENVS=4 alg.NUM_STEPS=104 alg.TOTAL_TIMESTEPS=1664 alg.LEARNING_STARTS=0 "
    "alg.BUFFER_SIZE=64 alg.BUFFER_BATCH_SIZE=4 alg.TEST_NUM_ENVS=4 alg.TEST_NUM_STEPS=104 alg.TEST_INTERVAL=0.5 "
    "alg.ENV_NAME={env}"
)
SCRIPTS = {  # script: overrides of its configuration, for a run of three or four updates
    "IPPO/ippo_ff_mpe.py": f"{_ON_POLICY} NUM_SEEDS=1",
    "IPPO/ippo_rnn_mpe.py": _ON_POLICY,
    "MAPPO/mappo_rnn_mpe.py": _ON_POLICY,
    "QLearning/iql_rnn.py": _Q_LEARNING,
    "QLearning/vdn_rnn.py": _Q_LEARNING,
    "QLearning/qmix_rnn.py": _Q_LEARNING,
}

# What stands between our environments and an unchanged script; an id of one's own goes the same way.
_START = """
import runpy, sys
import envs_jax
from envs_jax.compat.jaxmarl import install
envs_jax.register("navigation_discrete", "envs_jax.particles.navigation:Navigation", continuous_actions=False)
small = {"map": "small", "num_agents": 4, "max_steps": 50, "observation": "onehot"}
envs_jax.register("harvest_small", "envs_jax.ssd.harvest:Harvest", **small)
install()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(script: Path, overrides: str, env_id: str) -> tuple[bool, float, str]:
    """`(whether it succeeded, seconds, last line of the error)` of one script on one environment."""
    settings = {"WANDB_MODE": "disabled", "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", _START, str(script), *overrides.format(env=env_id).split(), "hydra.run.dir=."]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        options = {"capture_output": True, "text": True, "timeout": TIME_LIMIT}
        try:
            done = subprocess.run(command, cwd=folder, env=os.environ | settings, **options)
        except subprocess.TimeoutExpired:
            return False, TIME_LIMIT, f"no end within {TIME_LIMIT} s"
    lines = [line for line in done.stderr.splitlines() if "Error" in line] or done.stderr.splitlines() or [""]
    return done.returncode == 0, time.perf_counter() - start, lines[-1].strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jaxmarl", type=Path, required=True, help="a checkout of JaxMARL")
    parser.add_argument("--scripts", default="", help="only scripts whose name contains this")
    parser.add_argument("--envs", nargs="+", default=ENVS, help=f"environments (default: {' '.join(ENVS)})")
    args = parser.parse_args()
    scripts = {name: overrides for name, overrides in SCRIPTS.items() if args.scripts in name}
    missing = [name for name in scripts if not (args.jaxmarl / "baselines" / name).is_file()]
    if missing or not scripts:
        parser.error(f"no scripts in {args.jaxmarl}: {', '.join(missing) or args.scripts}")

    print("| script | environment | outcome | seconds |\n|---|---|---|---|")
    failures = 0
    for name, overrides in scripts.items():
        theirs_fails = False
        for env_id in args.envs:
            succeeded, seconds, error = run((args.jaxmarl / "baselines" / name).resolve(), overrides, env_id)
            print(f"| `{name}` | {env_id} | {'ok' if succeeded else error} | {seconds:.0f} |", flush=True)
            theirs_fails |= env_id == THEIRS and not succeeded
            failures += not succeeded and not theirs_fails
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
