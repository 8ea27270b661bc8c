"""The list of published models, against the libraries that list them."""

import csv
import itertools

import pytest
from catalogue_sources import PRETRAINED, Published, read_open_clip, read_timm, read_transformers
from make_catalogue import claims, make_row, read_card
from timm_oracle import timm

from vitrail.weights._catalogue import CATALOGUE

with CATALOGUE.open(encoding="utf-8", newline="") as file:
    ROWS = {(row["repository"], row["file"]): row for row in csv.DictReader(file)}
SOME = (
    *read_timm(
        lambda name: name in ("vit_small_patch14_dinov2", "deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_336")
    ),
    *itertools.islice(read_open_clip(), 9, 11),
    *itertools.islice(read_transformers(), 2),
)


@pytest.mark.parametrize("published", SOME, ids=lambda published: published.repository)
def test_a_row_is_what_the_library_says(published: Published) -> None:
    card = read_card(published)
    if card is None:
        assert (published.repository, published.file) not in ROWS
        return
    row = make_row(published, card)
    assert ROWS[published.repository, published.file] == {name: str(value) for name, value in row.items()}


def test_what_timm_publishes_and_vitrail_claims_is_listed() -> None:
    names = {name for name in timm.list_pretrained() if claims(name.partition(".")[0])}
    hosted = {name for name in names if (timm.get_pretrained_cfg(name).hf_hub_id or "").endswith(f"/{name}")}
    listed = {repository.partition("/")[2] for repository, file in ROWS if file == "model.safetensors"}
    # Those blocks differ from what the layout computes.
    assert {name.partition("_patch")[0] for name in hosted - listed} == {"vit_dlittle", "vit_dwee"}


def test_timms_own_choice_of_weights_has_the_name_of_the_architecture() -> None:
    named = {name: repository for (repository, _), row in ROWS.items() for name in row["names"].split()}
    for architecture in ("vit_base_patch16_224", "vit_small_patch14_dinov2", "eva02_base_patch14_448"):
        default = PRETRAINED.get_pretrained_cfg(architecture)
        assert named[architecture] == default.hf_hub_id
