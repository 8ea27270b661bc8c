"""Independent references: the mean-pool ViT in NumPy float64, written from the equations, and in Flax, as a Flax user
would write it. Neither shares a line with vitrail; what takes weights over from a vitrail model stands at the end."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from helpers import final_norm

import vitrail

Turn = Callable[[np.ndarray], np.ndarray]
"""A rotation of one head's queries or keys, `(tokens, head_dim)`."""

_erf = np.vectorize(math.erf, otypes=[np.float64])

ACTIVATIONS = {
    "gelu": lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "relu": lambda x: np.where(x > 0, x, 0.0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": lambda x: (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1),
}


def np_softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def np_layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """Over the last axis, with the biased variance."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


def np_norm(x: np.ndarray, w: dict[str, np.ndarray], name: str, eps: float) -> np.ndarray:
    """The norm whose weight is `g` and the name: a LayerNorm if it has a bias `h`, else one by root mean square."""
    if "h" + name in w:
        return np_layer_norm(x, w["g" + name], w["h" + name], eps)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * w["g" + name]


def np_conv(image: np.ndarray, kernel: np.ndarray, stride: tuple[int, int], padding: int = 0) -> np.ndarray:
    """Cross-correlation of `(height, width, in)` with `(out, in, kernel height, kernel width)`, by loops."""
    image = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    height, width = kernel.shape[2:]
    rows, cols = (image.shape[0] - height) // stride[0] + 1, (image.shape[1] - width) // stride[1] + 1
    result = np.zeros((rows, cols, kernel.shape[0]))
    for row in range(rows):
        for col in range(cols):
            top, left = row * stride[0], col * stride[1]
            window = image[top : top + height, left : left + width]
            result[row, col] = np.einsum("hwi,oihw->o", window, kernel)
    return result


def np_axial(x: np.ndarray, grid: tuple[int, int], prefix: int, base: float) -> np.ndarray:
    """RoPE-ViT's axial rotation: neighbouring channels are a complex number; columns turn the first half."""
    tokens, head_dim = x.shape
    turned = x.copy()
    for token in range(prefix, tokens):
        row, col = divmod(token - prefix, grid[1])
        for pair in range(head_dim // 2):
            i = pair % (head_dim // 4)
            angle = (col if pair < head_dim // 4 else row) * base ** (-4 * i / head_dim)
            z = complex(x[token, 2 * pair], x[token, 2 * pair + 1]) * complex(math.cos(angle), math.sin(angle))
            turned[token, 2 * pair : 2 * pair + 2] = z.real, z.imag
    return turned


def np_dinov3(x: np.ndarray, grid: tuple[int, int], prefix: int, base: float) -> np.ndarray:
    """DINOv3's rotation: angles of row then column, tiled twice; the two halves of a head are the pairs."""
    tokens, head_dim = x.shape
    turned = x.copy()
    for token in range(prefix, tokens):
        row, col = divmod(token - prefix, grid[1])
        centre = [(2 * row + 1) / grid[0] - 1, (2 * col + 1) / grid[1] - 1]
        periods = [base ** (2 * i / (head_dim / 2)) for i in range(head_dim // 4)]
        angles = np.array([2 * math.pi * c / period for c in centre for period in periods] * 2)
        half = head_dim // 2
        rotated_half = np.concatenate([-x[token, half:], x[token, :half]])
        turned[token] = x[token] * np.cos(angles) + rotated_half * np.sin(angles)
    return turned


def np_relative_bias(table: np.ndarray, special: np.ndarray, grid: tuple[int, int], prefix: int) -> np.ndarray:
    """BEiT's bias of the scores, `(heads, tokens, tokens)`, of a table of distances and the three other numbers."""
    tokens = prefix + grid[0] * grid[1]
    bias = np.zeros((table.shape[-1], tokens, tokens))
    for query in range(tokens):
        for key in range(tokens):
            if query < prefix and key < prefix:
                bias[:, query, key] = special[2]
            elif query < prefix:
                bias[:, query, key] = special[0]
            elif key < prefix:
                bias[:, query, key] = special[1]
            else:
                (row, col), (other_row, other_col) = (divmod(token - prefix, grid[1]) for token in (query, key))
                bias[:, query, key] = table[row - other_row + grid[0] - 1, col - other_col + grid[1] - 1]
    return bias


ROTATIONS = {"axial": np_axial, "dinov3": np_dinov3}


def np_attention(
    x: np.ndarray,
    w: dict[str, np.ndarray],
    num_heads: int,
    eps: float,
    turn: Turn | None = None,
    bias: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Multi-head attention, one head at a time; the outputs, and the weights `(heads, tokens, tokens)`."""
    head_dim = x.shape[1] // num_heads
    outputs, weights = [], []
    for head in range(num_heads):
        own = slice(head * head_dim, (head + 1) * head_dim)
        q, k, v = (x @ w[f"w{name}"][own].T + w[f"b{name}"][own] for name in "qkv")
        if "gq" in w:
            q, k = np_norm(q, w, "q", eps), np_norm(k, w, "k", eps)
        if turn is not None:
            q, k = turn(q), turn(k)
        weights.append(np_softmax(q @ k.T / math.sqrt(head_dim) + (0 if bias is None else bias[head])))
        outputs.append(weights[-1] @ v)
    gathered = np.concatenate(outputs, axis=1)
    if "ga" in w:
        gathered = np_norm(gathered, w, "a", eps)
    return gathered @ w["wo"].T + w["bo"], np.stack(weights)


def np_mlp(x: np.ndarray, w: dict[str, np.ndarray], activation: str, eps: float = 1e-6) -> np.ndarray:
    """The feed-forward half of a block; gated where the hidden layer is twice as wide as what the second reads."""
    hidden = x @ w["w1"].T + w["b1"]
    width = w["w2"].shape[1]
    if hidden.shape[1] == width:
        hidden = ACTIVATIONS[activation](hidden)
    else:
        hidden = ACTIVATIONS["silu"](hidden[:, :width]) * hidden[:, width:]
    if "gm" in w:
        hidden = np_norm(hidden, w, "m", eps)
    return hidden @ w["w2"].T + w["b2"]


def np_block(
    x: np.ndarray,
    w: dict[str, np.ndarray],
    num_heads: int,
    eps: float,
    activation: str,
    turn: Turn | None = None,
    bias: np.ndarray | None = None,
    *,
    post_norm: bool = False,
) -> np.ndarray:
    """One block, with its norms before the branches or after them."""
    if post_norm:
        attended, _ = np_attention(x, w, num_heads, eps, turn, bias)
        x = x + w.get("s1", 1.0) * np_norm(attended, w, "1", eps)
        return x + w.get("s2", 1.0) * np_norm(np_mlp(x, w, activation, eps), w, "2", eps)
    attended, _ = np_attention(np_norm(x, w, "1", eps), w, num_heads, eps, turn, bias)
    x = x + w.get("s1", 1.0) * attended
    return x + w.get("s2", 1.0) * np_mlp(np_norm(x, w, "2", eps), w, activation, eps)


def np_mean_pool_vit(
    image: np.ndarray, w: dict[str, Any], num_heads: int, eps: float = 1e-6, activation: str = "gelu"
) -> np.ndarray:
    """The logits of the mean-pool ViT."""
    patch = w["patch"].shape[2:]
    x = np_conv(image, w["patch"], patch) + w["patch_bias"]
    x = x.reshape(-1, x.shape[-1]) + w["position"]
    for block in w["blocks"]:
        x = np_block(x, block, num_heads, eps, activation)
    x = np_layer_norm(x, w["norm_weight"], w["norm_bias"], eps)
    return w["head"] @ x.mean(axis=0) + w["head_bias"]


class FlaxBlock(nn.Module):
    """One pre-norm block."""

    num_heads: int
    d_ff: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.LayerNorm(name="norm1")(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=self.num_heads, name="attention")(y, y)
        y = nn.Dense(self.d_ff, name="hidden")(nn.LayerNorm(name="norm2")(x))
        return x + nn.Dense(x.shape[-1], name="out")(nn.gelu(y, approximate=False))


class FlaxViT(nn.Module):
    """The mean-pool ViT of one image."""

    patch_size: int
    d_model: int
    num_heads: int
    d_ff: int
    num_layers: int
    num_classes: int

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        patch = (self.patch_size, self.patch_size)
        x = nn.Conv(self.d_model, patch, strides=patch, padding="VALID", name="patch")(image[None])[0]
        x = x.reshape(-1, self.d_model)
        x = x + self.param("position", nn.initializers.normal(0.02), x.shape)
        for i in range(self.num_layers):
            x = FlaxBlock(self.num_heads, self.d_ff, name=f"block{i}")(x)
        x = nn.LayerNorm(name="norm")(x)
        return nn.Dense(self.num_classes, name="head")(jnp.mean(x, axis=0))


def float64(array: jax.Array) -> np.ndarray:
    """As NumPy's float64."""
    return np.asarray(array, np.float64)


def numpy_block_weights(block: Any) -> dict[str, np.ndarray]:
    """What `np_block` takes, of one block with any options."""
    attention, mlp = block.attention, block.mlp
    named = {"wo": attention.project.weight, "w1": mlp.hidden.weight, "w2": mlp.out.weight}
    for name, linear in (("o", attention.project), ("1", mlp.hidden), ("2", mlp.out)):
        named[f"b{name}"] = jnp.zeros(linear.weight.shape[0]) if linear.bias is None else linear.bias
    norms = {"1": block.norm1, "2": block.norm2, "q": attention.q_norm, "k": attention.k_norm, "a": attention.norm}
    for name, norm in (norms | {"m": mlp.norm}).items():
        named |= {} if norm is None else {f"g{name}": norm.weight}
        named |= {f"h{name}": norm.bias} if isinstance(norm, vitrail.LayerNorm) else {}
    bias = jnp.zeros(attention.qkv.weight.shape[0]) if attention.qkv.bias is None else attention.qkv.bias
    for name, weights, biases in zip("qkv", jnp.split(attention.qkv.weight, 3), jnp.split(bias, 3), strict=True):
        named |= {f"w{name}": weights, f"b{name}": biases}
    if block.scale1 is not None:
        named |= {"s1": block.scale1, "s2": block.scale2}
    return {name: float64(array) for name, array in named.items()}


def numpy_weights(model: Any) -> dict[str, Any]:
    """What `np_mean_pool_vit` takes, of a model with the parts `conv`, `learned`, `mean` and `linear`."""
    position = float64(model.backbone.position.patches)
    return {
        "patch": float64(model.backbone.patch.weight),
        "patch_bias": float64(model.backbone.patch.bias),
        "position": position.reshape(-1, position.shape[-1]),
        "blocks": [numpy_block_weights(block) for block in model.blocks],
        "norm_weight": float64(final_norm(model).weight),
        "norm_bias": float64(final_norm(model).bias),
        "head": float64(model.readout.head.linear.weight),
        "head_bias": float64(model.readout.head.linear.bias),
    }


def flax_parameters(model: Any) -> dict[str, Any]:
    """The parameters of `FlaxViT`, of the same model."""
    dim, heads = model.config.size.dim, model.config.size.num_heads

    def dense(linear: Any) -> dict[str, jax.Array]:
        return {"kernel": linear.weight.T, "bias": linear.bias}

    def norm(layer: Any) -> dict[str, jax.Array]:
        return {"scale": layer.weight, "bias": layer.bias}

    def flax_block(block: vitrail.Block) -> dict[str, Any]:
        qkv, attention = block.attention.qkv, {}
        for name, weight, bias in zip(
            ("query", "key", "value"), jnp.split(qkv.weight, 3), jnp.split(qkv.bias, 3), strict=True
        ):
            attention[name] = {"kernel": weight.T.reshape(dim, heads, -1), "bias": bias.reshape(heads, -1)}
        project = block.attention.project
        attention["out"] = {"kernel": project.weight.T.reshape(heads, -1, dim), "bias": project.bias}
        return {
            "norm1": norm(block.norm1),
            "attention": attention,
            "norm2": norm(block.norm2),
            "hidden": dense(block.mlp.hidden),
            "out": dense(block.mlp.out),
        }

    blocks = {f"block{i}": flax_block(block) for i, block in enumerate(model.blocks)}
    own = {
        "patch": {"kernel": model.backbone.patch.weight.transpose(2, 3, 1, 0), "bias": model.backbone.patch.bias},
        "position": model.backbone.position.patches.reshape(-1, dim),
        "norm": norm(final_norm(model)),
        "head": dense(model.readout.head.linear),
    }
    return {"params": own | blocks}
