"""Pickles of PyTorch's become safetensors, and nothing in them is run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

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


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("evil"),))


@pytest.mark.parametrize("content", [Evil(), {"a": Evil()}])
def test_code_is_not_run(content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, "m.pt")
    with pytest.raises(vitrail.CheckpointError, match=r"m\.pt must be a file of tensors that PyTorch can read"):
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
    assert "from-torch must be given" in capsys.readouterr().err
    assert main(["convert", str(path), str(out), "--from-torch"]) == 0
    assert "3 tensors" in capsys.readouterr().out


def test_an_old_pytorch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    torch.save(TENSORS, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"must be 2\.10 or newer"):
        vitrail.convert_torch(tmp_path / "m.pt", tmp_path / "m.safetensors")
