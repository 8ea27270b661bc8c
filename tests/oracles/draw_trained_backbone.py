"""Draws what the trained backbone sees in photographs: `python tests/oracles/draw_trained_backbone.py OUT.png`."""

import sys
import tempfile
from pathlib import Path

from PIL import Image
from skimage import data
from trained_backbone import write_checkpoint

import vitrail
from vitrail import show

SIZE = 518


def draw(out: Path) -> None:
    """A cat, a cup and a rocket: their components, and the attention of the
    class token in the last block, by head. The picture has 256 colours."""
    with tempfile.TemporaryDirectory() as folder:
        model = vitrail.load(write_checkpoint(Path(folder)), image_size=SIZE)
    show.draw_look(model, [data.chelsea(), data.coffee(), data.rocket()], out)
    with Image.open(out) as drawn:
        drawn.convert("RGB").quantize(256).save(out, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
