"""Draws what each transform makes of a photograph: `python tests/oracles/draw_transforms.py OUT.png`."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage import data

from vitrail import images, show

PICTURE = Image.fromarray(data.chelsea()).crop((75, 0, 375, 300)).resize((160, 160))
CONTEXT = images.TransformContext(
    image_size=(160, 160), patch_size=(16, 16), preprocess=images.Preprocess("cover", "bicubic", *images.IMAGENET)
)
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "horizontal_flip": {"probability": 1.0},
    "color_jitter": {"hue": 0.1},
    "rand_augment": {"probability": 1.0},
    "random_erasing": {"probability": 1.0},
}


def make(name: str, seed: int) -> Mapping[str, np.ndarray]:
    choice = images.TRANSFORMS.configure(name, **OPTIONS.get(name, {}))
    transforms = images.make_transforms((choice,), CONTEXT)
    return images.augment(PICTURE, transforms, random=np.random.default_rng(seed))


def draw(out: Path) -> None:
    """A cat, twice by each transform that makes one picture, and crops of two sizes. The picture has 256 colours."""
    names = [name for name in images.TRANSFORMS if name != "multi_crop"]
    made = [(make(name, seed)["image"], (name, f"seed {seed}")) for seed in (11, 9) for name in names]
    crops = make("multi_crop", 0)
    for kind, number in (("large", 2), ("small", 4)):
        for pixels in crops[kind][:number]:
            shown = np.asarray(Image.fromarray(pixels).resize((160, 160), Image.Resampling.NEAREST))
            made.append((shown, ("multi_crop", f"{kind}, {pixels.shape[0]} x {pixels.shape[1]}")))
    pixels, captions = zip(*made, strict=True)
    show.draw_contact_sheet(np.stack(pixels), captions, out, title="One picture, changed at random")
    with Image.open(out) as drawn:
        drawn.convert("RGB").resize((1200, round(1200 * drawn.height / drawn.width))).quantize(256).save(
            out, optimize=True
        )


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
