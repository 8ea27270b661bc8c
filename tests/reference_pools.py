"""The pools in float64 NumPy, from the equations of their papers and a patch at a time: independent of ours."""

import math
from collections.abc import Callable, Mapping

import numpy as np
from reference import ACTIVATIONS, np_layer_norm

Weights = Mapping[str, np.ndarray]
Grid = tuple[int, int]
Result = tuple[np.ndarray, np.ndarray | None]
"""The pooled vector, and the weights of the patches if the pool has some."""


def softmax(scores: list[float]) -> list[float]:
    exponentials = [math.exp(score - max(scores)) for score in scores]
    return [x / sum(exponentials) for x in exponentials]


def np_log_sum_exp(x: np.ndarray, temperature: float) -> np.ndarray:
    """Pinheiro and Collobert 2015, with r = 1 / temperature."""
    r = 1 / temperature
    peak = x.max(axis=0)  # taken out, so that no exponential overflows
    return peak + np.log(np.mean(np.exp(r * (x - peak)), axis=0)) / r


def np_generalised_mean(x: np.ndarray, power: float, eps: float) -> np.ndarray:
    """Radenovic et al. 2018, equation 3."""
    clipped = np.maximum(x, eps)
    peak = clipped.max(axis=0)
    return peak * np.mean((clipped / peak) ** power, axis=0) ** (1 / power)


def np_gated_attention(x: np.ndarray, w: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Ilse et al. 2018, equations 7 and 9."""
    scores = []
    for patch in x:
        signal = np.tanh(w["signal.weight"] @ patch)
        gate = 1 / (1 + np.exp(-(w["gate.weight"] @ patch)))
        scores.append(float(w["score.weight"][0] @ (signal * gate)))
    shares = np.array(softmax(scores))
    return sum(a * patch for a, patch in zip(shares, x, strict=True)), shares  # type: ignore[return-value]


def np_simpool(x: np.ndarray, w: Weights, gamma: float, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Psomas et al. 2023."""
    keys = np_layer_norm(x, w["norm.weight"], w["norm.bias"], eps)
    query = w["q.weight"] @ x.mean(axis=0)
    scores = [float(query @ (w["k.weight"] @ key)) / math.sqrt(x.shape[1]) for key in keys]
    shares = np.array(softmax(scores))
    values = keys - keys.min() + 1e-6
    total = sum(a * value**gamma for a, value in zip(shares, values, strict=True))
    return total ** (1 / gamma), shares  # type: ignore[operator]


def np_cross_attention(
    queries: np.ndarray, x: np.ndarray, w: Weights, heads: int, prefix: str
) -> tuple[np.ndarray, np.ndarray]:
    """Vaswani et al. 2017, one head and one query at a time: what is gathered, and (heads, queries, tokens)."""
    dim = x.shape[1]
    width = dim // heads
    matrices, biases = np.split(w[f"{prefix}qkv.weight"], 3), np.split(w[f"{prefix}qkv.bias"], 3)
    q, k, v = (tokens @ m.T + b for tokens, m, b in zip((queries, x, x), matrices, biases, strict=True))
    gathered, shares = np.zeros_like(q), np.zeros((heads, len(q), len(x)))
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for i in range(len(q)):
            shares[head, i] = softmax([float(q[i, part] @ k[j, part]) / math.sqrt(width) for j in range(len(x))])
            gathered[i, part] = shares[head, i] @ v[:, part]
    return gathered @ w[f"{prefix}project.weight"].T + w[f"{prefix}project.bias"], shares


def np_aim(x: np.ndarray, w: Weights, heads: int) -> tuple[np.ndarray, np.ndarray]:
    """El-Nouby et al. 2024: the attention of one query as it is, by the cross-attention above."""
    dim = x.shape[1]
    bias = np.concatenate([np.zeros(dim), w.get("kv.bias", np.zeros(2 * dim))])
    qkv = {"qkv.weight": np.concatenate([np.eye(dim), w["kv.weight"]]), "qkv.bias": bias}
    y, shares = np_cross_attention(w["query"][None], x, {**w, **qkv}, heads, "")
    return y[0], shares[:, 0]


def np_mlp(x: np.ndarray, w: Weights, prefix: str, activation: str) -> np.ndarray:
    hidden = ACTIVATIONS[activation](x @ w[f"{prefix}hidden.weight"].T + w[f"{prefix}hidden.bias"])
    return hidden @ w[f"{prefix}out.weight"].T + w[f"{prefix}out.bias"]


def np_map(x: np.ndarray, w: Weights, heads: int, activation: str, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """big_vision's MAP head: attention of learned queries, and an MLP beside it."""
    y, shares = np_cross_attention(w["queries"], x, w, heads, "attention.")
    y = y + np_mlp(np_layer_norm(y, w["norm.weight"], w["norm.bias"], eps), w, "mlp.", activation)
    return y.reshape(-1), shares.reshape(-1, len(x))


def np_class_attention(x: np.ndarray, w: Weights, depth: int, heads: int, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Touvron et al. 2021 (CaiT), section 3: blocks in which a class token reads the patches."""
    token, shares = w["class_token"], []
    for block in range(depth):
        p = f"blocks.{block}."
        z = np_layer_norm(np.concatenate([token, x]), w[f"{p}norm1.weight"], w[f"{p}norm1.bias"], eps)
        gathered, weights = np_cross_attention(z[:1], z, w, heads, f"{p}attention.")
        token = token + w[f"{p}scale1"] * gathered
        normed = np_layer_norm(token, w[f"{p}norm2.weight"], w[f"{p}norm2.bias"], eps)
        token = token + w[f"{p}scale2"] * np_mlp(normed, w, f"{p}mlp.", "gelu")
        shares.append(weights[:, 0, 1:])
    return token[0], np.concatenate(shares)


def np_top_k(x: np.ndarray, k: int, score: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The k largest, by norm with equal shares, or by score with their softmax."""
    sizes = [float(np.sqrt(np.sum(patch**2))) if score is None else float(score[0] @ patch) for patch in x]
    largest = sorted(range(len(x)), key=lambda i: -sizes[i])[:k]
    shares = np.zeros(len(x))
    shares[largest] = 1 / len(largest) if score is None else softmax([sizes[i] for i in largest])
    return shares @ x, shares


def np_bilinear(table: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Triangular interpolation of both axes, with the triangle widened where an axis shrinks."""
    for axis in range(2):
        old, new = table.shape[axis], size[axis]
        ratio = old / new
        rows = []
        for i in range(new):
            centre = (i + 0.5) * ratio - 0.5
            weights = np.array([max(0.0, 1 - abs(centre - j) / max(ratio, 1.0)) for j in range(old)])
            rows.append(weights / weights.sum())
        table = np.moveaxis(np.tensordot(np.array(rows), table, axes=(1, axis)), 0, axis)
    return table


def np_mean(x: np.ndarray, *more: np.ndarray) -> np.ndarray:
    rows = [*x, *(row for rows in more for row in rows)]
    return sum(rows) / len(rows)  # type: ignore[return-value]


def np_max(x: np.ndarray) -> np.ndarray:
    return np.array([max(column) for column in x.T])


def np_weighted(x: np.ndarray, scores: np.ndarray, grid: Grid) -> Result:
    scores = scores if scores.shape == grid else np_bilinear(scores, grid)
    shares = np.array(softmax(list(scores.ravel())))
    return shares @ x, shares[None]


def with_one_row(result: tuple[np.ndarray, np.ndarray]) -> Result:
    """The same with the weights as one row."""
    value, shares = result
    return value, shares[None]


REFERENCES: dict[str, Callable[[np.ndarray, np.ndarray, Weights, Grid], Result]] = {
    "mean": lambda x, prefix, w, grid: (np_mean(x), None),
    "mean with prefix": lambda x, prefix, w, grid: (np_mean(x, prefix), None),
    "cls": lambda x, prefix, w, grid: (prefix[0], None),
    "max": lambda x, prefix, w, grid: (np_max(x), None),
    "mean_max": lambda x, prefix, w, grid: ((np_mean(x) + np_max(x)) / 2, None),
    "cls_mean": lambda x, prefix, w, grid: (np.array([*prefix[0], *np_mean(x)]), None),
    "sum": lambda x, prefix, w, grid: (sum(x), None),  # type: ignore[return-value]
    "none": lambda x, prefix, w, grid: (np.array([*prefix, *x]), None),
    "lse": lambda x, prefix, w, grid: (np_log_sum_exp(x, math.exp(w["log_temperature"])), None),
    "lse fixed": lambda x, prefix, w, grid: (np_log_sum_exp(x, 0.3), None),
    "gem": lambda x, prefix, w, grid: (np_generalised_mean(x, math.exp(w["log_power"]), 1e-6), None),
    "attention": lambda x, prefix, w, grid: np_map(x, w, 1, "gelu", 1e-6),
    "attention of three heads and two queries": lambda x, prefix, w, grid: np_map(x, w, 3, "gelu_tanh", 1e-3),
    "aim": lambda x, prefix, w, grid: np_aim(x, w, 1),
    "aim of three heads": lambda x, prefix, w, grid: np_aim(x, w, 3),
    "abmil": lambda x, prefix, w, grid: with_one_row(np_gated_attention(x, w)),
    "abmil of five": lambda x, prefix, w, grid: with_one_row(np_gated_attention(x, w)),
    "simpool": lambda x, prefix, w, grid: with_one_row(np_simpool(x, w, 1.25, 1e-6)),
    "simpool of one": lambda x, prefix, w, grid: with_one_row(np_simpool(x, w, 1.0, 1e-6)),
    "simpool of two": lambda x, prefix, w, grid: with_one_row(np_simpool(x, w, 2.0, 1e-3)),
    "cait": lambda x, prefix, w, grid: np_class_attention(x, w, 2, 1, 1e-6),
    "cait of one": lambda x, prefix, w, grid: np_class_attention(x, w, 1, 1, 1e-6),
    "cait of three": lambda x, prefix, w, grid: np_class_attention(x, w, 3, 4, 1e-6),
    "weighted": lambda x, prefix, w, grid: np_weighted(x, w["scores"], grid),
    "top_k": lambda x, prefix, w, grid: with_one_row(np_top_k(x, 8, None)),
    "top 1": lambda x, prefix, w, grid: with_one_row(np_top_k(x, 1, None)),
    "top 2 by score": lambda x, prefix, w, grid: with_one_row(np_top_k(x, 2, w["score.weight"])),
}
"""Each takes patches, prefix tokens, the parameters by dotted path and the grid."""
