"""The losses of DINO, iBOT and DINOv2, and what the teacher's scores go through before them.

Source: facebookresearch/dino `main_dino.py`; facebookresearch/dinov2 `dinov2/loss/`. All are functions of arrays. Where
the batch is sharded over devices, sums over it are sums over all devices.
"""

from typing import Any, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._check import check_positive
from ..nn import list_arrays, to_jax

_N = TypeVar("_N")
_EPS = 1e-8


def centre_scores(
    scores: Float[Array, "*batch prototypes"],
    centre: Float[Array, " prototypes"],
    *,
    temperature: float | Float[Array, ""],
) -> Float[Array, "*batch prototypes"]:
    """Turns the teacher's scores into probabilities by centring and sharpening: `softmax((scores - centre) / T)`.

    Centring prevents that one prototype gets the highest score for every image. Sharpening, which is a temperature
    below that of the student, prevents that all prototypes get the same score.

    **Arguments:**

    - `scores`: the scores of the teacher.
    - `centre`: the running mean of the teacher's scores: zeros in the first step, then what `update_centre` returns.
    - `temperature`: the temperature $T$ of the teacher. DINO raises it from 0.04 to 0.07.

    **Returns:**

    The probabilities of the prototypes for each row, without a gradient.
    """
    centred = scores - jnp.broadcast_to(centre, scores.shape)
    return jax.lax.stop_gradient(jax.nn.softmax(centred / temperature, axis=-1))


def update_centre(
    centre: Float[Array, " prototypes"],
    scores: Float[Array, "*batch prototypes"],
    *,
    momentum: float | Float[Array, ""] = 0.9,
    mask: Bool[Array, "*batch"] | None = None,
) -> Float[Array, " prototypes"]:
    """Moves the centre towards the mean of the teacher's scores.

    **Arguments:**

    - `centre`: the centre of this step.
    - `scores`: the scores of the teacher for all images and crops of the step.
    - `momentum`: the weight of the old centre in the new one.
    - `mask`: true for the rows of `scores` that count; `None` if all count.

    **Returns:**

    The centre for the next step, without a gradient. If no row counts, it is `centre`.
    """
    rows = scores.reshape(-1, scores.shape[-1])
    counts = jnp.ones(len(rows), bool) if mask is None else mask.reshape(-1)
    total = jnp.sum(jnp.where(counts[:, None], rows, jnp.zeros_like(rows)), axis=0)
    number = jnp.sum(counts).astype(rows.dtype)
    moved = _move(centre, total / jnp.maximum(number, 1), momentum)
    return jax.lax.stop_gradient(jnp.where(number > 0, moved, centre))


def sinkhorn_knopp(
    scores: Float[Array, "*batch prototypes"],
    *,
    temperature: float | Float[Array, ""],
    iterations: int = 3,
    mask: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch prototypes"]:
    """Turns the teacher's scores into probabilities in which every prototype has about the same sum over the batch.
    It replaces [`centre_scores`][vitrail.systems.centre_scores].

    It divides `exp(scores / T)` by its sums over the batch, then by its sums over the prototypes, and repeats both. It
    computes with logarithms, so that nothing overflows.

    ??? cite

        Cuturi, *Sinkhorn Distances*, 2013, arXiv:1306.0895. Caron et al., *Unsupervised Learning of Visual Features by
        Contrasting Cluster Assignments*, 2020, arXiv:2006.09882.

    **Arguments:**

    - `scores`: the scores of the teacher for all images and crops of a step.
    - `temperature`: the temperature $T$ of the teacher, as in `centre_scores`.
    - `iterations`: how many times both divisions are done.
    - `mask`: true for the rows of `scores` that count; `None` if all count.

    **Returns:**

    The probabilities of the prototypes for each row, without a gradient; zeros in rows that do not count.
    """
    check_positive(iterations=iterations)
    rows = scores.reshape(-1, scores.shape[-1]).astype(jnp.float32) / temperature
    counts = jnp.ones((len(rows), 1), bool) if mask is None else mask.reshape(-1, 1)
    for _ in range(iterations):
        rows = rows - _sum_exponentials(rows, 0, jnp.broadcast_to(counts, rows.shape))
        rows = rows - _sum_exponentials(rows, 1, jnp.ones(rows.shape, bool))
    shares = jnp.where(counts, jnp.exp(rows), jnp.zeros_like(rows))
    return jax.lax.stop_gradient(shares.reshape(scores.shape))


def _sum_exponentials(
    x: Float[Array, "rows cols"], axis: int, where: Bool[Array, "rows cols"]
) -> Float[Array, "rows cols"]:
    """The logarithm of the sum of exponentials, repeated along the axis; 0 where nothing counts."""
    total = jax.nn.logsumexp(x, axis=axis, where=where, keepdims=True)
    return jnp.broadcast_to(jnp.where(jnp.isneginf(total), 0.0, total), x.shape)


def dino_loss(
    student: Float[Array, "student_crops batch prototypes"],
    teacher: Float[Array, "teacher_crops batch prototypes"],
    *,
    temperature: float | Float[Array, ""] = 0.1,
) -> Float[Array, ""]:
    """The cross-entropy between the teacher's probabilities for one crop of an image and the student's for another.

    It is the mean over the images and over all pairs of a crop of the teacher and a different crop of the student. With
    the probabilities of `centre_scores` it is the loss of DINO. The terms that DINOv2 has for global and for local
    crops add up to it, too.

    **Arguments:**

    - `student`: the scores of the student for all crops of each image. The first crops are those of the teacher.
    - `teacher`: the probabilities of the teacher for the large crops, as `centre_scores` or `sinkhorn_knopp` returns
        them.
    - `temperature`: the temperature of the student.

    **Returns:**

    The loss, a scalar.

    **Raises:** `ValueError` if the student has fewer crops than the teacher, or fewer than two.
    """
    crops, others = len(teacher), len(student)
    if others < max(crops, 2):
        raise ValueError(
            f"student must have the crops of the teacher and at least two, got {others} crops and {crops} of the "
            "teacher: pass the scores of all crops, with those of the teacher first"
        )
    logarithms = jax.nn.log_softmax(student / temperature, axis=-1)
    teacher = jax.lax.stop_gradient(teacher)
    pairs = -jnp.einsum("tbk,sbk->ts", teacher, logarithms) / student.shape[1]
    return (jnp.sum(pairs) - jnp.trace(pairs)) / (crops * others - crops)


def ibot_loss(
    student: Float[Array, "*batch patches prototypes"],
    teacher: Float[Array, "*batch patches prototypes"],
    hidden: Bool[Array, "*batch patches"],
    *,
    temperature: float | Float[Array, ""] = 0.1,
) -> Float[Array, ""]:
    """The cross-entropy between the teacher's and the student's probabilities for patches that are hidden from the
    student.

    It is the mean over the hidden patches of an image, then over the images; an image without hidden patches counts as
    zero.

    **Arguments:**

    - `student`: the scores of the student for patches of an image in which some are hidden.
    - `teacher`: the probabilities of the teacher, which sees the whole image, for the same patches.
    - `hidden`: true for the patches that count.
    - `temperature`: the temperature of the student.

    **Returns:**

    The loss, a scalar.
    """
    logarithms = jax.nn.log_softmax(student / temperature, axis=-1)
    entropies = -jnp.sum(jax.lax.stop_gradient(teacher) * logarithms, axis=-1)
    number = jnp.maximum(jnp.sum(hidden, axis=-1), 1).astype(entropies.dtype)
    return jnp.mean(jnp.sum(jnp.where(hidden, entropies, jnp.zeros_like(entropies)), axis=-1) / number)


def koleo_loss(embeddings: Float[Array, "batch features"]) -> Float[Array, ""]:
    """A loss that spreads embeddings: minus the mean logarithm of the distance from each embedding to its nearest
    neighbour in the batch.

    DINOv2 adds it with a weight of 0.1, once for each large crop. Do not mix the crops in one call: two crops of one
    image should stay near each other.

    ??? cite

        Sablayrolles et al., *Spreading vectors for similarity search*, ICLR 2019, arXiv:1806.03198.

    **Arguments:**

    - `embeddings`: the embeddings of different images, before the projection head. The function scales them to length
        one.

    **Returns:**

    The loss, a scalar.

    **Raises:** `ValueError` if there are fewer than two embeddings.
    """
    if len(embeddings) < 2:
        raise ValueError(f"embeddings must be at least two, got {len(embeddings)}: use a larger batch")
    x = embeddings.astype(jnp.float32)
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.maximum(square, _EPS**2))
    itself = jnp.eye(len(x), dtype=bool)
    nearest = jnp.argmax(jnp.where(itself, -jnp.inf, x @ x.T), axis=1)
    distances = jnp.sqrt(jnp.sum(jnp.square(x - x[nearest] + _EPS), axis=-1))
    return -jnp.mean(jnp.log(distances + _EPS))


def update_teacher(teacher: _N, student: _N, momentum: float | Float[Array, ""]) -> _N:
    """Moves the teacher towards the student: `momentum * teacher + (1 - momentum) * student`.

    **Arguments:**

    - `teacher`: the teacher of this step.
    - `student`: a model of the same configuration. It may have another `Dropout` and `Execution`.
    - `momentum`: the weight of the old teacher. It starts at 0.996 in DINO and at 0.992 in DINOv2, and grows to 1.

    **Returns:**

    The teacher for the next step. Each array keeps its dtype.

    **Raises:** `ValueError` if the two models have arrays of different names or shapes.
    """
    teacher, student = to_jax(teacher), to_jax(student)
    ours, theirs = (list_arrays(cast(object, eqx.filter(model, eqx.is_inexact_array))) for model in (teacher, student))
    shapes = [{name: array.shape for name, array in arrays.items()} for arrays in (ours, theirs)]
    if shapes[0] != shapes[1]:
        names = sorted(name for name, _ in shapes[0].items() ^ shapes[1].items())
        raise ValueError(
            f"teacher and student must have the same arrays, got others for {names[0]!r}: build both from one "
            "configuration"
        )

    moved = iter([_move(ours[name], theirs[name], momentum) for name in ours])

    def move(leaf: Any) -> Any:
        return next(moved) if eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(move, teacher)


def _move(
    old: Float[Array, "*shape"], new: Float[Array, "*shape"], momentum: float | Float[Array, ""]
) -> Float[Array, "*shape"]:
    """The mean of two arrays with the share `momentum` of the old one, whose dtype it keeps. It is computed in float32
    at least, in which a momentum near one is not one."""
    dtype = old.dtype if old.dtype.itemsize >= 4 else jnp.dtype(jnp.float32)
    share = jnp.asarray(momentum, dtype)
    return (old.astype(dtype) * share + new.astype(dtype) * (1 - share)).astype(old.dtype)
