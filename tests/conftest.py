"""The ground that every test stands on: set before JAX starts."""

import os
from importlib.util import find_spec

os.environ["XLA_FLAGS"] = " ".join(
    (os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=2")
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the tests are about numbers, and those of a GPU are rounder

import jax
from hypothesis import settings

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# A first call compiles, so no example has a deadline; the examples are the same in every run.
settings.register_profile("vitrail", deadline=None, derandomize=True, database=None)
settings.load_profile("vitrail")

# An example project has its own tests; the oracles need the originals, and run in `make test-oracles`.
collect_ignore = ["plugins", *([] if find_spec("torch") else ["oracles"])]
