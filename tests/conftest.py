"""One compilation cache for all tests, kept between runs: $COVEY_CACHE_DIR, or a folder for tests in ~/.cache."""

import gc
import os
import signal
from pathlib import Path

import jax
import pytest

# Compile fast rather than well: tests run tiny programs, and compiling is most of their time. (Never for benchmarks.)
FLAGS = [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0"]
if jax.__version_info__ < (0, 11):  # Later ones do not know this flag, and an unknown flag ends the process.
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(FLAGS)

# Subprocesses of tests inherit all of this.
os.environ.setdefault("COVEY_CACHE_DIR", str(Path.home() / ".cache" / "covey" / "tests"))
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.environ["COVEY_CACHE_DIR"])
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# A shell's background jobs ignore Ctrl-C and so would the programs that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Each compiled program holds some memory maps, of which Linux gives a process 65,530; beyond, XLA crashes."""
    yield
    jax.clear_caches()
    gc.collect()
