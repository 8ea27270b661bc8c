"""Rules: which tensors of a file are which arrays of a model, for any layout."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ZEROS: Final = "0"
"""Stands for a tensor that a file does not store, because it is zero."""
BLOCK: Final = "{i}"
"""Stands for the number of a block in a name."""
BOTH: Final = ".*"
"""Stands for `.weight` and `.bias` at the end of a name."""
POSITION_ROWS: Final = ("backbone.position.class_token", "backbone.position.registers", "backbone.position.patches")
"""The rows of a learned position embedding, if one tensor of the file holds them all."""
LEARNED_ROPE_ROWS: Final = tuple(name.replace(".position.", ".position.learned.") for name in POSITION_ROWS)
"""The same rows where the position rotates, too."""
RELATIVE_ROWS: Final = ("backbone.position.patches", "backbone.position.prefix")
"""The rows of a table of relative positions."""
QKV: Final = "backbone.encoder.stack.attention.qkv."
"""What the weight and the bias of queries, keys and values begin with."""
FINAL_NORM: Final = ("backbone.norm.*", "readout.norm.*")
"""The final norm. A model has one or the other."""


@dataclass(frozen=True)
class Rule:
    """Says that some tensors of a file, joined along their first axis, are some arrays of the model.

    `{i}` in a name stands for the number of a block: the array is then the part of a stacked array that belongs to that
    block. `.*` at the end stands for `.weight` and `.bias`.
    """

    theirs: tuple[str, ...]
    """The names in the file; `ZEROS` for a tensor that is zero and not stored."""
    ours: tuple[str, ...]
    """The names in the model."""
    view: str = ""
    """How each tensor of the file is rearranged: a pattern of einops, as `1 n d -> n d`."""
    sizes: tuple[tuple[str, int], ...] = ()
    """The lengths of axes in the view that do not follow from the shape."""
    block: int | None = None
    """The number of the block in the stacked array, if it differs from the number in the file."""
    mask: str = ""
    """The name of a tensor that the tensors of the file are multiplied by."""
    parts: tuple[int, ...] = ()
    """The ratio of the rows of the tensors, if they differ: `(1, 2)` for queries beside keys and values."""


def map_names(
    theirs: str | Sequence[str],
    ours: str | Sequence[str],
    view: str = "",
    *,
    sizes: tuple[tuple[str, int], ...] = (),
    block: int | None = None,
    mask: str = "",
    parts: tuple[int, ...] = (),
) -> Rule:
    """A `Rule` for one name or several on each side."""
    return Rule(_to_tuple(theirs), _to_tuple(ours), view, sizes, block, mask, parts)


def map_block(
    prefix: str,
    *,
    norm1: str,
    qkv: str | Sequence[str],
    project: str,
    norm2: str,
    hidden: str | Sequence[str],
    out: str,
    scales: tuple[str, str] | None = None,
    qk_norms: tuple[str, str] | None = None,
    ours: str = "backbone.encoder.stack.",
) -> tuple[Rule, ...]:
    """The rules of a block whose linear layers and norms have `.weight` and `.bias`, as in every layout of PyTorch.

    The names follow `prefix`. An empty `qkv` gives no rule for queries, keys and values.
    """
    pairs = [
        (norm1, "norm1"),
        (qkv, "attention.qkv"),
        (project, "attention.project"),
        (norm2, "norm2"),
        (hidden, "mlp.hidden"),
        (out, "mlp.out"),
        *zip(qk_norms or (), ("attention.q_norm", "attention.k_norm"), strict=False),
    ]
    rules = [
        Rule(tuple(prefix + name + BOTH for name in _to_tuple(theirs)), (ours + name + BOTH,))
        for theirs, name in pairs
        if theirs
    ]
    for theirs, name in zip(scales or (), ("scale1", "scale2"), strict=False):
        rules.append(Rule((prefix + theirs,), (ours + name,)))
    return tuple(rules)


def prefix_rules(rules: Sequence[Rule], *, ours: str, theirs: str = "", bare: tuple[str, ...] = ()) -> tuple[Rule, ...]:
    """The rules of a model for one that has it as a part: names with prefixes.

    **Arguments:**

    - `rules`: those of the part alone.
    - `ours`: what comes before the names in the model, as `"image."`.
    - `theirs`: what comes before the names in the file, as `"vision_model."`.
    - `bare`: the beginnings of names in the file that `theirs` does not come before.
    """

    def name_whole(name: str) -> str:
        return name if not name or name == ZEROS or name.startswith(bare) else theirs + name

    return tuple(
        dataclasses.replace(
            rule,
            theirs=tuple(map(name_whole, rule.theirs)),
            ours=tuple(ours + name for name in rule.ours),
            mask=name_whole(rule.mask),
        )
        for rule in rules
    )


def _to_tuple(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
