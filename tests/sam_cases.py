"""Photos and prompts for SAM, and what vitrail makes of them."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from checkpoint_cases import drawn

import vitrail

Arrays = dict[str, np.ndarray]
PHOTO_SIZES = ((37, 61), (150, 97), (128, 128))
"""Heights and widths of photos: smaller than the image that the model reads, and one larger."""
MASK_SIZE = (32, 32)
_SHIFTS = (2.0, 5.6, 1.8, -1.1)
_STRETCHED = {
    "output_upscaling.0.weight": 5,
    "upscale_conv1.weight": 5,
    "output_upscaling.3.weight": 10,
    "upscale_conv2.weight": 10,
    "layers.2.weight": 0.7,
    "proj_out.weight": 0.7,
    "final_attn_token_to_image.out_proj.weight": 4,
    "final_attn_token_to_image.v_proj.weight": 4,
}
"""What tensors are multiplied by, so that masks differ from point to point and are neither empty nor full."""


@dataclass(frozen=True)
class Prompt:
    """A prompt in pixels of a photo."""

    points: Any = None
    labels: Any = None
    box: Any = None
    mask: Any = None

    @property
    def codes(self) -> list[int]:
        """The labels, with those that are left out."""
        return [1] * len(self.points) if self.labels is None else list(self.labels)

    def arguments(self) -> dict[str, Any]:
        """As `segment` takes them."""
        return {name: value for name, value in vars(self).items() if value is not None}


def draw_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of a file by its name."""
    if re.fullmatch(r".*iou_prediction_head\.(layers\.2|proj_out)\.bias", name):
        return drawn(name, shape) + np.float32(0.8)
    if match := re.fullmatch(r".*mlps\.(\d)\.(layers\.2|proj_out)\.bias", name):
        waves = np.cos(int(match[1]) + 1.7 * np.arange(shape[0], dtype=np.float32))
        return np.float32(6) * waves - np.float32(_SHIFTS[int(match[1])])
    if re.fullmatch(r"mask_decoder\.(output_upscaling|upscale_conv).*", name) and len(shape) == 4:
        return np.broadcast_to(drawn(name, shape[:2])[..., None, None], shape) * 5 + drawn(name, shape)
    factors = [factor for ending, factor in _STRETCHED.items() if name.startswith("mask_d") and name.endswith(ending)]
    return drawn(name, shape) * np.float32(max(factors, default=1))


def photo_of(size: tuple[int, int]) -> np.ndarray:
    """A random photo of smooth patches."""
    state = np.random.RandomState(size[0] * 1000 + size[1])
    coarse = state.randint(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3))
    return coarse.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]].astype(np.uint8)


def list_prompts(size: tuple[int, int]) -> dict[str, Prompt]:
    """Prompts of all kinds for a photo of that size."""
    height, width = size
    points = [(0.3 * width, 0.4 * height), (width - 1, 0), (7.25, 20.5), (0, height - 1), (3, 3)]
    box = (0.1 * width, 0.2 * height, width, 0.9 * height)
    mask = drawn("mask", MASK_SIZE)
    return {
        "a point": Prompt(points[:1]),
        "points": Prompt(points, labels=[1, 0, 1, 1, 0]),
        "a box": Prompt(box=box),
        "points and a box": Prompt(points[:2], labels=[1, 0], box=box),
        "a mask": Prompt(mask=mask),
        "a point, a box and a mask": Prompt(points[:1], box=box, mask=mask),
    }


def thin(found: Arrays) -> Arrays:
    """Some of the numbers of each mask: a fixture need not hold them all."""
    return {name: array[..., ::9, ::9] if array.ndim == 3 else array for name, array in found.items()}


SEARCH = {"points_per_side": 6, "batch_size": 10, "min_quality": 0.1, "min_stability": 0.02, "stability_offset": 0.1}
"""A search of masks whose thresholds leave some out."""


def segment(model: vitrail.SegmentAnything, photo: np.ndarray) -> Arrays:
    """What vitrail finds in a photo for each prompt: first the one mask, then the several."""
    image = model.embed(photo)
    found: Arrays = {"tokens": np.asarray(image.tokens)}
    for name, prompt in list_prompts(image.size).items():
        both = [model.segment(image, **prompt.arguments(), multiple=multiple) for multiple in (False, True)]
        large = [np.asarray(model.enlarge(image, one.logits)) for one in both]
        assert all(np.array_equal(one.masks, logits > 0) for one, logits in zip(both, large, strict=True))
        found[f"{name}/large"] = np.concatenate(large)
        found[f"{name}/quality"] = np.concatenate([one.quality for one in both])
        found[f"{name}/logits"] = np.concatenate([one.logits for one in both])
    return found


def search_masks(model: vitrail.SegmentAnything, photo: np.ndarray) -> Arrays:
    """What vitrail finds in a photo without a prompt."""
    masks = vitrail.find_masks(model, photo, search=vitrail.MaskSearch(**SEARCH))
    return {
        "search/masks": np.packbits([one.mask for one in masks]),
        "search/quality": np.asarray([one.quality for one in masks]),
        "search/stability": np.asarray([one.stability for one in masks]),
        "search/area": np.asarray([one.area for one in masks]),
    }
