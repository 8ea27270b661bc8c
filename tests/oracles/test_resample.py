"""The rules of resampling against their sources as they are installed."""

import importlib

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from checkpoint_cases import drawn
from checkpoint_oracle import transformers
from helpers import assert_close
from resample_oracle import TABLE, resampled

import vitrail
from vitrail.nn import ResizeRule, resample

ORIGINALS = resampled()


@pytest.mark.parametrize("name", [name for name in ORIGINALS if name != "table"])
def test_a_rule_gives_the_numbers_of_its_source(name: str) -> None:
    rule: ResizeRule
    rule, size = name.split(" ", 1)  # type: ignore[assignment]
    assert_close(resample(jnp.asarray(TABLE), eval(size), rule), ORIGINALS[name])


DISTANCES = drawn("distances", (13 * 13 + 3, 2))
GRIDS = ((14, 14), (24, 24), (3, 3), (7, 12), (5, 7), (40, 2), (1, 1))


def resample_distances(rule: str, grid: tuple[int, int]) -> np.ndarray:
    """Our table of a grid of seven rows and columns for another one, as both libraries store it."""
    position = vitrail.RelativeBiasPosition(grid=(7, 7), num_heads=2, depth=1, shared=True, resize=rule)  # type: ignore[arg-type]
    patches, prefix = jnp.asarray(DISTANCES[:-3].reshape(13, 13, 2)), jnp.asarray(DISTANCES[-3:])
    position = eqx.tree_at(lambda p: (p.patches, p.prefix), position, (patches, prefix)).resized(grid)
    return np.concatenate([np.asarray(position.patches).reshape(-1, 2), np.asarray(position.prefix)])


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of PyTorch, on how timm calls it
def test_a_table_of_distances_is_resampled_as_timm_does(grid: tuple[int, int]) -> None:
    resize = importlib.import_module("timm.layers").resize_rel_pos_bias_table
    shape = (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3, 2
    expected = resize(torch.from_numpy(DISTANCES), grid, shape, old_window_size=(7, 7))
    assert_close(resample_distances("geometric", grid), expected.numpy())


@pytest.mark.parametrize("grid", GRIDS)
def test_a_table_of_distances_is_resampled_as_transformers_does(grid: tuple[int, int]) -> None:
    module = importlib.import_module("transformers.models.beit.modeling_beit")
    config = transformers.BeitConfig(image_size=7, patch_size=1, num_attention_heads=2, hidden_size=16)
    bias = module.BeitRelativePositionBias(config)
    bias.relative_position_bias_table.data = torch.from_numpy(DISTANCES)
    index = bias.generate_relative_position_index(grid)
    expected = bias(grid)[0].detach().permute(1, 2, 0)
    assert_close(resample_distances("bilinear", grid)[index], expected.numpy())
