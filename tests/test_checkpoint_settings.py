"""What lies beside a checkpoint: each setting is read, or is an error; none is passed over."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_cases import Case, drawn, published, tensors_of
from safetensors.numpy import save_file
from test_checkpoints import CASES

import vitrail
from vitrail import CheckpointError

TIMM = CASES["timm vit_tiny_patch16_224"]
HF = CASES["transformers ViTForImageClassification"]


def beside(case: Case, folder: Path, settings: dict[str, Any], **tensors: np.ndarray) -> Path:
    """The checkpoint of a case with other settings, and some of its tensors others."""
    path = published(case, folder)
    (folder / "config.json").write_text(json.dumps((case.settings or {}) | settings))
    save_file({**tensors_of(case), **tensors}, path)
    return path


# Positions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "arguments", "grid", "covers"),
    [
        (81, {"img_size": [32, 40]}, (8, 10), True),  # also the square of nine
        (81, {"img_size": [36, 36]}, (9, 9), False),
        (80, {"img_size": [32, 40]}, (8, 10), False),
        (81, {"no_embed_class": True}, (9, 9), False),
        (17, {"no_embed_class": False}, (4, 4), True),
        (17, {}, (4, 4), True),
        (16, {}, (4, 4), False),
    ],
)
def test_a_table_of_positions_is_read_as_the_settings_have_it(
    rows: int, arguments: dict[str, Any], grid: tuple[int, int], covers: bool, tmp_path: Path
) -> None:
    settings = {"model_args": {"num_heads": 2, **arguments}, "pretrained_cfg": {}}
    table = drawn("pos_embed", (1, rows, 16))
    model = vitrail.load(beside(TIMM, tmp_path, settings, pos_embed=table))
    assert model.config.grid == grid
    assert isinstance(model.position, vitrail.LearnedPosition)
    assert (model.position.prefix is not None) == covers
    assert np.array_equal(model.position.patches.reshape(-1, 16), table[0, int(covers) :])


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        (HF, {"image_size": 384}),
        (HF, {"image_size": 10**9}),
        (TIMM, {"model_args": {"num_heads": 2, "img_size": 32}}),
    ],
    ids=["384", "10**9", "timm"],
)
def test_an_image_size_that_the_positions_deny_is_an_error(
    case: Case, settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"has positions for 16 patches, but an image of \d+ pixels"):
        vitrail.load(beside(case, tmp_path, settings))


def test_positions_that_are_no_square_want_an_image_size(tmp_path: Path) -> None:
    settings = {"model_args": {"num_heads": 2}, "pretrained_cfg": {}}
    with pytest.raises(CheckpointError, match="has 13 positions, which is no square"):
        vitrail.load(beside(TIMM, tmp_path, settings, pos_embed=drawn("pos_embed", (1, 14, 16))))
