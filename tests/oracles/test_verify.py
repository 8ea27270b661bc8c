"""`vitrail.verify` asks the original library: that it agrees, and that it is believed if it does not."""

from pathlib import Path

import pytest
from checkpoint_cases import load_cases, published
from checkpoint_oracle import open_clip, transformers
from safetensors.numpy import load_file, save_file
from system_cases import load_system_cases
from timm_oracle import timm

import vitrail
from vitrail.weights import _verify

LIBRARIES = (timm, transformers, open_clip)  # imported in the order that they need
IMAGES = ("timm vit_tiny_patch16_224", "transformers ViTForImageClassification", "transformers Dinov2Model")
SYSTEMS = {
    "transformers CLIPModel": "image, similarity, text",
    "transformers SiglipModel": "image, similarity, text",
    "transformers Aimv2Model": "image, similarity, text",
    "open_clip both towers": "image, similarity, text",
    "transformers SamModel": "masks, quality, tokens",
}


def ask(path: Path) -> tuple[str, str]:
    (found,) = [check for check in vitrail.verify(path).checks if check.name == "original"]
    return found.verdict, found.words


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_model_is_what_its_library_computes(name: str, tmp_path: Path) -> None:
    verdict, words = ask(published(load_cases()[name], tmp_path))
    assert verdict == "pass"
    assert words.startswith("output")


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_is_what_its_library_computes(name: str, tmp_path: Path) -> None:
    verdict, words = ask(load_system_cases()[name].publish(tmp_path))
    assert (verdict, words.partition(" of its own")[0]) == ("pass", SYSTEMS[name])


def test_another_result_of_the_library_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = load_system_cases()["transformers CLIPModel"].publish(tmp_path)
    real = _verify.run_original

    def change(path: Path, *rest: object) -> object:
        tensors = load_file(path)
        tensors["text_projection.weight"] *= 1.01
        tensors["text_projection.weight"][0] += 0.1
        save_file(tensors, path, metadata={"format": "pt"})
        return real(path, *rest)

    monkeypatch.setattr(_verify, "run_original", change)
    assert ask(path)[0] == "fail"
