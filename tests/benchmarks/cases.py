"""What is run: sizes, batches and images, and the weights that all contenders can be given."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

SIZES = {"Ti": (192, 3), "S": (384, 6), "B": (768, 12)}
"""Width and heads; the MLP is four times as wide, a patch has 16 by 16 pixels."""
PATCH, CLASSES, EPS = 16, 1000, 1e-6
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-4
DECODER_DIM, DECODER_DEPTH, DECODER_HEADS = 512, 8, 16
"""Of MAE."""


@dataclass(frozen=True)
class Case:
    """One thing to time: a forward pass, or a whole training step (forward, backward, AdamW) of a classifier or of MAE,
    whose decoder has 8 blocks of 512 channels."""

    mode: Literal["forward", "train", "mae"]
    size: Literal["Ti", "S", "B"]
    batch: int
    image: int = 224
    depth: int = 12
    dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def dim(self) -> int:
        return SIZES[self.size][0]

    @property
    def num_heads(self) -> int:
        return SIZES[self.size][1]

    @property
    def patches(self) -> int:
        return (self.image // PATCH) ** 2

    @property
    def name(self) -> str:
        image = "" if self.image == 224 else f", {self.image} pixels"
        depth = "" if self.depth == 12 else f", depth {self.depth}"
        return f"{self.mode} {self.size}/16, batch {self.batch}{image}{depth}"

    @property
    def flops(self) -> int:
        """Of the matrix products; a multiplication and an addition are two. A training step has those of the forward
        pass three times, save that nobody wants the gradient of the image."""
        embed = 2 * self.patches * 3 * PATCH**2 * self.dim
        if self.mode == "mae":
            n, kept, d = self.patches + 1, self.patches // 4 + 1, DECODER_DIM
            decoder = 2 * kept * self.dim * d + _block(n, d) * DECODER_DEPTH + 2 * n * d * 3 * PATCH**2
            forward = embed + _block(kept, self.dim) * self.depth + decoder
        else:
            forward = embed + _block(self.patches, self.dim) * self.depth + 2 * self.dim * CLASSES
        return self.batch * (forward if self.mode == "forward" else 3 * forward - embed)

    def asdict(self) -> dict[str, Any]:
        return asdict(self)


def _block(tokens: int, dim: int) -> int:
    return 24 * tokens * dim**2 + 4 * tokens**2 * dim


def timed(quick: bool, dtype: Literal["float32", "bfloat16"], *, fill: bool) -> list[Case]:
    """The cases in which contenders run in turns; `fill` for such as fill a GPU too."""
    full = [Case("forward", "B", 128, dtype=dtype), Case("train", "B", 64, dtype=dtype)]
    if quick and fill:
        return [Case("forward", "Ti", 1, dtype=dtype), *full]
    if quick:
        return [
            Case("forward", "Ti", 1, dtype=dtype),
            Case("forward", "Ti", 8, dtype=dtype),
            Case("train", "Ti", 8, dtype=dtype),
        ]
    forward = [("Ti", 1), ("Ti", 8), ("Ti", 32), ("S", 1), ("S", 8), ("S", 32), ("B", 1), ("B", 8)]
    train = [("Ti", 8), ("Ti", 32), ("S", 8), ("S", 32)]
    return [
        *(Case("forward", size, batch, dtype=dtype) for size, batch in forward),
        *(Case("forward", "Ti", 1, image=image, dtype=dtype) for image in (448, 896)),
        *(Case("train", size, batch, dtype=dtype) for size, batch in train),
        *(full if fill else ()),
    ]


def inputs(case: Case, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images, channels last, and labels."""
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((case.batch, case.image, case.image, 3), np.float32)
    return images, rng.integers(0, CLASSES, case.batch, np.int32)


def weights(case: Case) -> dict[str, np.ndarray]:
    """Random weights by timm's names. Every one is random, so that no contender can leave one out unseen."""
    d = case.dim
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (d, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (d,),
        "pos_embed": (1, case.patches, d),
        "norm.weight": (d,),
        "norm.bias": (d,),
        "head.weight": (CLASSES, d),
        "head.bias": (CLASSES,),
    }
    for i in range(case.depth):
        for name, shape in (("attn.qkv", (3 * d, d)), ("attn.proj", (d, d)), ("mlp.fc1", (4 * d, d))):
            shapes[f"blocks.{i}.{name}.weight"], shapes[f"blocks.{i}.{name}.bias"] = shape, shape[:1]
        shapes[f"blocks.{i}.mlp.fc2.weight"], shapes[f"blocks.{i}.mlp.fc2.bias"] = (d, 4 * d), (d,)
        for name in ("norm1", "norm2"):
            shapes[f"blocks.{i}.{name}.weight"], shapes[f"blocks.{i}.{name}.bias"] = (d,), (d,)
    rng = np.random.default_rng(0)
    drawn = {name: 0.02 * rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    return {name: 1 + 5 * a if "norm" in name and "weight" in name else a for name, a in drawn.items()}


def block_weights(named: dict[str, np.ndarray], i: int) -> dict[str, np.ndarray]:
    """The weights of one block, by what comes after `blocks.0.`."""
    prefix = f"blocks.{i}."
    return {name.removeprefix(prefix): array for name, array in named.items() if name.startswith(prefix)}
