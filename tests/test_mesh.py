"""Training over several devices and hosts equals training on one."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_train_run as runs
from helpers import parameters
from jax.sharding import AbstractMesh, AxisType, Mesh

import vitrail
from vitrail import train

TESTS = Path(__file__).parent
EIGHT = AbstractMesh((2, 8), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], vitrail.ViT]:
    """The losses of a run on one device that was interrupted at step 20, and its model."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    with pytest.raises(KeyboardInterrupt):
        runs.fit(folder, report=runs.Stop(20))
    model = runs.fit(folder)
    return read_losses(folder), model


def read_losses(folder: Path) -> list[float]:
    return [line["loss"] for line in runs.read_metrics(folder) if "loss" in line]


@pytest.mark.parametrize(
    ("shape", "spec"),
    [((16, 24), (None, "fsdp")), ((24, 15), ("fsdp", None)), ((9, 15), (None, None)), ((64,), (None,)), ((), ())],
)
def test_an_array_is_divided_along_its_widest_axis_that_can_be(shape: Any, spec: Any):
    found = train.find_shardings({"array": jax.ShapeDtypeStruct(shape, jnp.float32), "name": "x"}, EIGHT)
    assert found["array"].spec == jax.sharding.PartitionSpec(*spec)
    assert found["name"] is None


def test_blocks_are_divided_within_each_and_their_optimiser_as_they_are():
    recipe = train.Recipe(average=0.9)
    training = train.Training(train.make_objective(recipe, runs.make_data().preprocess), recipe, 10)
    state = jax.eval_shape(  # sixteen blocks, so that their axis could be divided, too
        lambda key: training.start(
            vitrail.ViTConfig(
                image_size=(8, 8), patch_size=(4, 4), size=vitrail.EncoderSize(16, 16, 2, 24), num_classes=3
            ).build(key=key),
            key=key,
        ),
        jax.random.key(0),
    )
    found = parameters_of(train.find_shardings(state, EIGHT))
    specs = {name: spec for name, spec in found.items() if name.endswith(("mlp.hidden.weight", "mlp.hidden.bias"))}
    assert len(specs) == 8  # the model, its mean, and both moments
    for name, spec in specs.items():
        assert spec == ((None, "fsdp", None) if name.endswith("weight") else (None, None)), name
    assert all("fsdp" not in spec for name, spec in found.items() if "norm" in name)


def parameters_of(shardings: Any) -> dict[str, tuple[Any, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(shardings)
    return {jax.tree_util.keystr(path): tuple(leaf.spec) for path, leaf in leaves}


def count_bytes(tree: Any, device: jax.Device) -> int:
    shards = [shard for array in parameters(tree).values() for shard in array.addressable_shards]
    return sum(shard.data.nbytes for shard in shards if shard.device == device)


@pytest.mark.parametrize("axes", ["data=2", "fsdp=2"])
def test_two_devices_equal_one_and_one_goes_on(axes: str, tmp_path: Path, alone: tuple[list[float], vitrail.ViT]):
    folder, mesh = tmp_path / "run", train.make_mesh(axes)
    with pytest.raises(KeyboardInterrupt):
        runs.fit(folder, report=runs.Stop(20), mesh=mesh)
    model = runs.fit(folder)
    assert all(len(array.sharding.device_set) == 1 for array in parameters(model).values())
    assert read_losses(folder) == pytest.approx(alone[0], rel=1e-6)
    shutil.rmtree(folder / "checkpoints" / "40")  # two devices go on where one was at step 35
    model, data = runs.fit(folder, mesh=mesh), runs.make_data()
    first, second = (count_bytes(model, device) for device in jax.devices())
    share = first / count_bytes(alone[1], jax.devices()[0])
    assert first == second
    assert share == 1 if axes == "data=2" else 0.5 < share < 0.7  # vectors are on both
    ours, theirs = (train.evaluate(each, data, batch_size=7).logits for each in (model, alone[1]))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    saved = parameters(vitrail.load(folder / "last.safetensors"))
    for name, array in parameters(train.collect(model)).items():
        assert np.array_equal(array, saved[name])


def test_a_model_is_born_divided():
    mesh = train.make_mesh("fsdp=2")
    config = runs.make_model().config
    model = train.make_divided(mesh, lambda key: config.build(key=key), jax.random.key(3))
    expected = parameters(config.build(key=jax.random.key(3)))
    for name, array in parameters(model).items():
        np.testing.assert_allclose(array, expected[name], atol=1e-6)
    weight = model.backbone.encoder.stack.mlp.hidden.weight
    assert weight.addressable_shards[0].data.shape == (1, 4, 8)


@pytest.mark.parametrize("axes", ["", "model=2", "data=2,data=1", "data=0", "data", "fsdp=-1"])
def test_axes_that_make_no_sense(axes: str):
    with pytest.raises(ValueError, match=r"mesh must have sizes of data and fsdp, as 'data=2,fsdp=4', got"):
        train.make_mesh(axes)


def test_devices_that_do_not_fit_are_said():
    with pytest.raises(ValueError, match="mesh must have at most 2 devices, got 'data=2,fsdp=4', which has 8"):
        train.make_mesh("data=2,fsdp=4")
    odd = dataclasses.replace(runs.RECIPE, batch_size=9)
    with pytest.raises(ValueError, match=r"batch_size must be a multiple of 2, the 2 devices .* accumulate=1, got 9"):
        train.fit(runs.make_model(), runs.make_data(), odd, key=runs.KEY, mesh=train.make_mesh("data=2"))
    explicit = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Explicit,))
    with pytest.raises(ValueError, match="mesh must have the axes data and fsdp of the type Auto"):
        train.fit(runs.make_model(), runs.make_data(), runs.RECIPE, key=runs.KEY, mesh=explicit)
    once = dataclasses.replace(runs.RECIPE, epochs=1)
    with pytest.warns(UserWarning, match=r"fit uses 1 of 2 devices: pass mesh=vitrail.train.make_mesh\('data=2'\)"):
        train.fit(runs.make_model(), runs.make_data(), once, key=runs.KEY)


def find_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def tell_hosts(monkeypatch: pytest.MonkeyPatch, address: str, hosts: int, host: int) -> None:
    for name, value in zip(("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"), (address, hosts, host), strict=True):
        monkeypatch.setenv(f"JAX_{name}", str(value))


def test_hosts_that_do_not_answer_are_named(monkeypatch: pytest.MonkeyPatch):
    address = f"localhost:{find_port()}"
    tell_hosts(monkeypatch, address, 2, 1)
    with pytest.raises(TimeoutError, match=rf"host 0 did not answer host 1 at {address} within 1 s .*: start it there"):
        train.join_hosts(timeout=1)
    tell_hosts(monkeypatch, address, 3, 0)
    with pytest.raises(TimeoutError, match="for 3 hosts, of which 1, 2 did not answer: start them"):
        train.join_hosts(timeout=1)
    for wrong in ((address, 2, 2), (address, "two", 0), ("", 2, 0)):
        tell_hosts(monkeypatch, *wrong)
        with pytest.raises(ValueError, match="JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID must say"):
            train.join_hosts()
    tell_hosts(monkeypatch, "10.0.0.1", 2, 0)
    with pytest.raises(ValueError, match="must be an address and a port"):
        train.join_hosts()


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("127.0.0.[1-2,7]", "127.0.0.1"), ("127.0.0.3,127.0.0.4", "127.0.0.3"), ("127.0.0.5", "127.0.0.5")],
)
def test_slurm_says_which_hosts_there_are(nodes: str, first: str, monkeypatch: pytest.MonkeyPatch):
    """Addresses stand in for names of nodes: they are found without a name server."""
    for name, value in {"STEP_NODELIST": nodes, "NTASKS": "2", "PROCID": "1", "JOB_ID": "4107"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(TimeoutError, match=f"host 0 did not answer host 1 at {first}:61451 within 1 s"):
        train.join_hosts(timeout=1)


def start(devices: int, code: list[str], **variables: object) -> subprocess.Popen[str]:
    flags = os.environ["XLA_FLAGS"].replace("device_count=2", f"device_count={devices}")
    environment = {**os.environ, "XLA_FLAGS": flags, **{name: str(value) for name, value in variables.items()}}
    return subprocess.Popen(
        [sys.executable, *code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=TESTS
    )


def test_eight_devices_equal_one_for_every_objective():
    """In float64, in which the order of sums does not matter: in float32 it changes the sixth digit."""
    program = start(8, ["mesh_program.py", "--x64", "data=2,fsdp=4", *train.OBJECTIVES])
    output, _ = program.communicate(timeout=300)
    found = json.loads(output)
    assert list(found) == list(train.OBJECTIVES)
    for name, each in found.items():
        assert each["data=2,fsdp=4"] < 1e-9, name


_PROGRAM = """if True:
    import os
    from vitrail import train
    if "JAX_PROCESS_ID" in os.environ:
        train.join_hosts(timeout=60)
    import test_train_run as runs
    mesh = train.make_mesh("data=2,fsdp=4")
    try:
        runs.fit(runs.Path({folder!r}), report=runs.Stop(20), validation=runs.make_data().test, mesh=mesh)
    except KeyboardInterrupt:
        print("stopped")"""


def test_eight_devices_equal_one_and_two_and_one_go_on(tmp_path: Path, alone: tuple[list[float], vitrail.ViT]):
    folder, address = tmp_path / "run", f"localhost:{find_port()}"
    variables = [
        {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": 2, "JAX_PROCESS_ID": host} for host in range(2)
    ]
    programs = [start(4, ["-c", _PROGRAM.format(folder=str(folder))], **each) for each in variables]
    outputs = [program.communicate(timeout=200)[0] for program in programs]
    assert all(output.endswith("stopped\n") for output in outputs)  # after what Gloo writes
    assert max(int(path.name) for path in (folder / "checkpoints").iterdir()) == 14
    for mesh in (train.make_mesh("fsdp=2"), None):
        copied = tmp_path / f"{mesh is None}"
        shutil.copytree(folder, copied)
        runs.fit(copied, mesh=mesh)
        assert read_losses(copied) == pytest.approx(alone[0], rel=1e-6)


_FAILS = """if True:
    from vitrail import train
    train.join_hosts(timeout=60)
    import jax
    import test_train_run as runs

    def fail(progress):
        if progress.step == 10 and jax.process_index() == {fails}:
            raise OSError("the disk is gone")

    runs.fit(runs.Path({folder!r}), report=fail, mesh=train.make_mesh("data=2"))"""


@pytest.mark.parametrize("fails", [0, 1])
def test_a_host_that_fails_ends_the_others(tmp_path: Path, fails: int):
    """Not by the heartbeat of JAX, which ends a process by SIGABRT."""
    address, code = f"localhost:{find_port()}", _FAILS.format(fails=fails, folder=str(tmp_path / "run"))
    programs = [
        start(1, ["-c", code], JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES=2, JAX_PROCESS_ID=host)
        for host in range(2)
    ]
    errors = [program.communicate(timeout=200)[1] for program in programs]
    assert [program.returncode for program in programs] == [1, 1]
    assert "OSError: the disk is gone" in errors[fails]
    message = f"vitrail: error: host {fails} failed: OSError: the disk is gone; this host, {1 - fails}, ends too"
    assert message in errors[1 - fails]
    assert max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()) == 7  # is whole
