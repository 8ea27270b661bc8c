"""The example of a plugin, built and installed as a user would, passes its own tests and has its name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import wheels

PROJECT = Path(__file__).parent / "plugins" / "vitrail-mean-std"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the example is installed."""
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(PROJECT, folder / "project")
    return wheels.install_project(folder / "project", folder)


def run(site: Path, *command: str) -> str:
    """What a new process prints in which the example is installed."""
    environment = os.environ | {"PYTHONPATH": str(site)}
    environment.pop("VITRAIL_NO_PLUGINS", None)
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_has_its_name_and_works_in_a_model(site: Path) -> None:
    program = """
import equinox as eqx, jax, numpy as np, vitrail
make = lambda: vitrail.vit("Ti/16", image_size=32, pool="mean_std", num_classes=3, key=jax.random.key(0))
model = eqx.filter_eval_shape(make)
print(model.readout.pool.out_dim, model.readout.head.dim, vitrail.POOLS.get_entry("mean_std").origins)
pool = vitrail.POOLS["mean_std"](4)
mask = jax.numpy.asarray([True, False, True, True, True, False])
tokens = vitrail.Tokens(jax.numpy.arange(24.0).reshape(6, 4) ** 2, (2, 3), mask=mask)
print(*np.asarray(pool(tokens)))
"""
    first, second = run(site, "-c", program).splitlines()
    assert first == "384 384 ('vitrail-mean-std 0.1.0',)"
    kept = (np.arange(24.0).reshape(6, 4) ** 2)[[0, 2, 3, 4]]
    np.testing.assert_allclose([float(x) for x in second.split()], [*kept.mean(axis=0), *kept.std(axis=0)], rtol=1e-5)


def test_it_is_listed(site: Path) -> None:
    lines = run(site, "-c", "from vitrail.cli import main; main(['list', 'pools'])").splitlines()
    where = lines.index("mean_std  (vitrail-mean-std 0.1.0)")
    assert lines[where + 1] == "    vitrail_mean_std:MeanStdPool"


def test_its_own_tests_pass(site: Path) -> None:
    options = ("-q", "-n", "0", "-p", "no:cacheprovider", "--rootdir", str(PROJECT), "-c", os.devnull)
    printed = run(site, "-m", "pytest", *options, str(PROJECT / "tests"))
    assert " passed" in printed
    assert "failed" not in printed
