"""Settings of every test, made before JAX starts."""

import gc
import os
import shutil
import signal
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

# Most of the time goes into compiling tiny programs, for which XLA takes less at its lowest optimisation level and with
# its older code generator for fusions (JAX 0.10.1, a gradient of a small model: 0.80 s, 0.47 s, 0.14 s). XLA ends the
# process at a flag that it does not know: JAX 0.12 has that generator no longer. One tiny program gains nothing from
# being split into parts that are compiled in parallel: 8 % of the time of a test.
os.environ["XLA_FLAGS"] = " ".join(
    (
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        if version("jax").startswith("0.10.")
        else "",
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=2",
    )
).strip()
# Many tests compile the same program: what one has compiled, all workers and their subprocesses read.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{tempfile.gettempdir()}/vitrail-tests-{os.getpid()}")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every worker and subprocess compiles the package anew
# No test reads the line of source that each operation of a compiled program came from, and to write them takes a tenth.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the tests are about numbers, which a GPU computes less exactly

import jax
import pytest
from hypothesis import settings

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores Ctrl-C
# What is traced makes many objects and little garbage; to search a heap as large as JAX's for it takes a tenth as well.
gc.set_threshold(200_000, 50, 100)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# A first call compiles, so no example has a deadline; the examples are the same in every run.
settings.register_profile("vitrail", deadline=None, derandomize=True, database=None)
settings.load_profile("vitrail")

# An example project has its own tests; the oracles need the originals, and run in `make test-oracles`.
collect_ignore = ["plugins", *([] if find_spec("torch") else ["oracles"])]

# What depends on the version of Python, JAX, Equinox or an extra's library: programs, PyTrees, entry points, files,
# training; of other files, the tests with the mark. The rest is arithmetic, which one version tests.
_DEPEND_ON_VERSIONS = {
    "test_errors",
    "test_model",
    "test_performance",
    "test_reference",
    "test_registry",
    "test_structure",
    "test_train_fit",
    "test_weights",
}


def pytest_unconfigure() -> None:
    cache = os.environ["JAX_COMPILATION_CACHE_DIR"]
    if cache.endswith(f"/vitrail-tests-{os.getpid()}"):  # the process that named it is the last to end
        shutil.rmtree(cache, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in _DEPEND_ON_VERSIONS:
            item.add_marker("versions")


_MAPS = Path("/proc/self/maps")
_MANY_MAPS = 20_000
"""Each compiled program holds several memory maps, of which Linux allows a process 65,530; beyond that it crashes."""


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    other_module = nextitem is not None and nextitem.path != item.path
    if other_module and _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MANY_MAPS:
        jax.clear_caches()
