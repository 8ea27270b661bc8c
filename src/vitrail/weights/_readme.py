"""The `README.md` of a saved model, which the Hugging Face Hub shows: its model card."""

from ._card import ModelCard

_LIBRARIES = {"timm": "timm", "hf": "transformers", "openai_clip": "open_clip"}
"""The Hub's names of the libraries, by what the names of their layouts begin with."""
_TASKS = {"image_text": "zero-shot-image-classification", "segment_anything": "mask-generation"}
"""The Hub's names of the tasks of systems."""


def make_readme(card: ModelCard, where: str) -> str:
    """Writes the model card.

    **Arguments:**

    - `card`: what the files hold.
    - `where`: how they are loaded with vitrail: `'vitrail.from_hub("me/name")'`.

    **Returns:**

    The text, with the facts for the Hub in YAML before it.
    """
    config, size = card.config, card.config.size
    library = next((name for start, name in _LIBRARIES.items() if card.layout.startswith(start)), "vitrail")
    task = _TASKS.get(card.kind, "image-classification" if config.num_classes and not card.embeds else "")
    facts = {
        "library_name": library,
        "license": card.licence or "",
        "pipeline_tag": task or "image-feature-extraction",
        "tags": "[vitrail, jax]",
    }
    height, width = config.image_size
    rows = {
        "model": f"{card.kind}: width {size.dim}, depth {size.depth}, {size.num_heads} heads",
        "parameters": f"{card.parameters:,}",
        "images": f"{height} x {width} pixels, patches of {config.patch_size[0]} x {config.patch_size[1]}",
        "tokens": f"{card.tokens:,}",
        "pool": str(config.pool),
        "classes": f"{config.num_classes}" if config.num_classes and not card.embeds else "none",
        "FLOPs for one image": f"{card.flops / 1e9:.2f} G",
        "layout of the file": f"`{card.layout}`",
        "licence": card.licence or "not known",
    }
    lines = ["---", *(f"{name}: {value}" for name, value in facts.items() if value), "---", ""]
    lines += ["A Vision Transformer, saved with vitrail.", "", "```python", "import vitrail", ""]
    lines += [f"model = {where}", "```", "", "| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items())]) + "\n"
