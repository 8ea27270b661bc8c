"""Pickles of PyTorch's become safetensors, and nothing in them is run."""

import argparse
import collections
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_cases import load_cases, published, tensors_of
from safetensors.torch import load_file
from timm_oracle import timm

import vitrail
from vitrail.cli import main

TENSORS = {"a.weight": torch.randn(3, 4).T, "b": torch.randn(2).to(torch.bfloat16), "c": torch.arange(3)}


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "teacher"])
@pytest.mark.parametrize("old", [False, True])
def test_tensors_come_over_to_the_bit(wrapper: str | None, old: bool, tmp_path: Path) -> None:
    content: Any = TENSORS if wrapper is None else {wrapper: TENSORS, "epoch": 3}
    torch.save(content, tmp_path / "m.pt", _use_new_zipfile_serialization=not old)
    count, left_out = vitrail.convert_torch(tmp_path / "m.pt", tmp_path / "m.safetensors")
    assert (count, left_out) == (3, [] if wrapper is None else ["epoch"])
    found = load_file(tmp_path / "m.safetensors")
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_tensors_that_share_memory_come_over_both(tmp_path: Path) -> None:
    shared = torch.randn(4)
    torch.save({"a": shared, "b": shared[1:]}, tmp_path / "m.pt")
    vitrail.convert_torch(tmp_path / "m.pt", tmp_path / "m.safetensors")
    assert np.array_equal(load_file(tmp_path / "m.safetensors")["b"], shared[1:])


def test_what_training_scripts_save_beside_tensors_is_read(tmp_path: Path) -> None:
    """The values alone are left out; nothing of them is made by code."""
    beside = {
        "args": argparse.Namespace(lr=1e-3, out=Path("out"), betas=(0.9, 0.95)),
        "loss": np.float32(0.5),
        "best": np.float64(0.5),
        "step": np.int64(7),
        "history": np.arange(3.0),
        "names": collections.Counter("aab"),
        "seen": {1, 2},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
    }
    for old in (False, True):
        torch.save({"net": TENSORS, **beside}, tmp_path / "m.pt", _use_new_zipfile_serialization=not old)
        count, left_out = vitrail.convert_torch(tmp_path / "m.pt", tmp_path / "m.safetensors")
        assert (count, set(left_out)) == (3, beside.keys())


def test_a_checkpoint_of_timms_training_is_picked_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """timm itself writes it, with the running mean of the weights."""
    model = timm.create_model("test_vit", num_classes=3)
    average = timm.utils.ModelEmaV3(model)
    optimizer = torch.optim.AdamW(model.parameters())
    arguments = argparse.Namespace(model="test_vit", lr=0.1)
    saver = timm.utils.CheckpointSaver(
        model, optimizer, args=arguments, model_ema=average, checkpoint_dir=str(tmp_path)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    saver.save_checkpoint(0, metric=np.float64(0.5))
    path, out = tmp_path / "last.pth.tar", tmp_path / "m.safetensors"
    with pytest.raises(
        vitrail.CheckpointError, match="several dictionaries of tensors, 'state_dict', 'state_dict_ema': pass pick="
    ):
        vitrail.convert_torch(path, out)
    with pytest.raises(ValueError, match=r"pick must be one of 'state_dict', 'state_dict_ema' for .*, got 'ema'"):
        vitrail.convert_torch(path, out, pick="ema")
    assert main(["convert", "--from-torch", str(path), str(out), "--pick", "state_dict_ema"]) == 0
    assert "state_dict" in capsys.readouterr().out
    assert all(torch.equal(tensor, average.module.state_dict()[name]) for name, tensor in load_file(out).items())
    vitrail.convert_torch(path, out, pick="state_dict")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in load_file(out).items())
    assert vitrail.load(out, config={"num_heads": 2}).config.num_classes == 3


def test_one_of_i_jepas_encoders_is_picked(tmp_path: Path) -> None:
    content = {
        name: {f"module.{key}": t for key, t in TENSORS.items()} for name in ("encoder", "predictor", "target_encoder")
    }
    torch.save({**content, "epoch": 3}, tmp_path / "m.pt")
    with pytest.raises(vitrail.CheckpointError, match="'encoder', 'predictor', 'target_encoder': pass pick="):
        vitrail.convert_torch(tmp_path / "m.pt", tmp_path / "m.safetensors")
    count, left_out = vitrail.convert_torch(tmp_path / "m.pt", tmp_path / "m.safetensors", pick="target_encoder")
    assert (count, left_out) == (3, ["encoder", "predictor", "epoch"])


def test_the_accuracy_of_a_run_beside_its_weights_is_not_the_weights(tmp_path: Path) -> None:
    """As PyTorch's example of training on ImageNet saves it."""
    content = {"epoch": 3, "state_dict": {"w": torch.arange(4.0)}, "best_acc1": torch.tensor(76.0)}
    torch.save(content, tmp_path / "m.pth")
    count, left_out = vitrail.convert_torch(tmp_path / "m.pth", tmp_path / "m.safetensors")
    assert count == 1
    assert {"epoch", "best_acc1"} <= set(left_out)


def test_a_dictionary_within_others_has_points_in_its_name(tmp_path: Path) -> None:
    torch.save({"a": {"model": TENSORS}, "b": {"model": {"x": torch.zeros(2)}}}, tmp_path / "m.pt")
    assert vitrail.convert_torch(tmp_path / "m.pt", tmp_path / "m.safetensors", pick="b.model") == (1, ["a"])


class Scripted(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2).half()
        self.norms = torch.nn.ModuleList([torch.nn.BatchNorm1d(2), torch.nn.LayerNorm(2)])
        self.resolution, self.sizes, self.name = 224, [1, 2], "vit"
        self.table = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_tensors_of_a_torchscript_archive_are_read(tmp_path: Path) -> None:
    """As OpenAI publishes CLIP."""
    module = Scripted().eval()
    torch.jit.script(module).save(str(tmp_path / "m.pt"))
    count, left_out = vitrail.convert_torch(tmp_path / "m.pt", tmp_path / "m.safetensors")
    found, expected = load_file(tmp_path / "m.safetensors"), module.state_dict()
    assert (count, left_out, found.keys()) == (len(expected), [], expected.keys())
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_with_an_evil_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.script(Scripted()).save("good.pt")
    with zipfile.ZipFile("good.pt") as good, zipfile.ZipFile("m.pt", "w") as bad:
        for name in good.namelist():
            bad.writestr(name, pickle.dumps(Evil()) if name.endswith("/data.pkl") else good.read(name))
    with pytest.raises(
        vitrail.CheckpointError, match=r"m\.pt must be a TorchScript archive of tensors: it holds pathlib"
    ):
        vitrail.convert_torch("m.pt", "m.safetensors")
    with zipfile.ZipFile("good.pt") as good, zipfile.ZipFile("m.pt", "w") as bad:
        for name in good.namelist():
            bad.writestr(name, good.read(name)[:40])
    with pytest.raises(vitrail.CheckpointError, match=r"m\.pt must be a TorchScript archive that is complete"):
        vitrail.convert_torch("m.pt", "m.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"good.pt", "m.pt"}


def test_several_files_with_an_index_become_one(tmp_path: Path) -> None:
    homes = {"a.weight": "pytorch_model-1.bin", "b": "pytorch_model-2.bin", "c": "pytorch_model-2.bin"}
    for shard in set(homes.values()):
        torch.save({name: TENSORS[name] for name, home in homes.items() if home == shard}, tmp_path / shard)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": homes}))
    for path in (tmp_path, index):
        with pytest.raises(
            vitrail.CheckpointError, match=r"a pickle of PyTorch, .*--from-torch \S*index\.json \S*model\.safetensors'"
        ):
            vitrail.load(path)
    assert vitrail.convert_torch(index, tmp_path / "m.safetensors") == (3, [])
    found = load_file(tmp_path / "m.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    index.write_text(json.dumps({"weight_map": {"a": "../m.bin"}}))
    with pytest.raises(vitrail.CheckpointError, match="an index may not point elsewhere"):
        vitrail.convert_torch(index, tmp_path / "m.safetensors")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("evil"),))


@pytest.mark.parametrize("content", [Evil(), {"a": Evil()}])
def test_code_is_not_run(content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, "m.pt")
    with pytest.raises(
        vitrail.CheckpointError,
        match=r"m\.pt holds 'getattr', which would have to be called to read it, and vitrail",
    ):
        vitrail.convert_torch("m.pt", "m.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]


@pytest.mark.parametrize("content", [3, {}, {"a": 1}, [torch.zeros(2)]])
def test_what_holds_no_tensors_by_name_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(vitrail.CheckpointError, match="must hold tensors by name"):
        vitrail.convert_torch(tmp_path / "m.pt", tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({1: torch.zeros(2), "1": torch.ones(2)}, "must have each name once, got '1' twice"),
        ({"a": torch.eye(3).to_sparse()}, "has 'a' as torch.float32 in the layout torch.sparse_coo"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "has 'a' as torch.complex64"),
    ],
)
def test_a_tensor_that_safetensors_does_not_hold_is_named(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(vitrail.CheckpointError, match=message):
        vitrail.convert_torch(tmp_path / "m.pt", tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize("version", ["2.10rc1", "2.11.0a0+git123"])
def test_a_version_may_be_of_any_kind(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    torch.save(TENSORS, tmp_path / "m.pt")
    assert vitrail.convert_torch(tmp_path / "m.pt", tmp_path / "m.safetensors")[0] == 3


def test_load_never_reads_a_pickle_and_the_command_must_be_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "m.pth", tmp_path / "m.safetensors"
    for old in (False, True):
        torch.save(TENSORS, path, _use_new_zipfile_serialization=not old)
        with pytest.raises(vitrail.CheckpointError, match=r"vitrail convert --from-torch"):
            vitrail.load(path)
    assert main(["convert", str(path), str(out)]) == 1
    assert "vitrail convert --from-torch" in capsys.readouterr().err
    assert main(["convert", str(path), str(out), "--from-torch"]) == 0
    assert "3 tensors" in capsys.readouterr().out


def test_a_pickle_goes_straight_to_a_layout(tmp_path: Path) -> None:
    """With the settings that are beside it."""
    case = load_cases()["transformers Dinov2Model"]
    path = published(case, tmp_path / "read")
    torch.save({"model": {n: torch.from_numpy(a) for n, a in tensors_of(case).items()}}, path.with_suffix(".bin"))
    path.unlink()
    done = vitrail.convert(path.with_suffix(".bin"), tmp_path / "written", layout="timm", from_torch=True)
    assert (done.difference, done.same_arrays) == (0, True)
    assert "`model.bin`" in (tmp_path / "written" / "README.md").read_text()
    assert {each.name for each in tmp_path.iterdir()} == {"read", "written"}


def test_an_old_pytorch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    torch.save(TENSORS, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"must be 2\.10 or newer"):
        vitrail.convert_torch(tmp_path / "m.pt", tmp_path / "m.safetensors")
