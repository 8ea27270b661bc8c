"""Uploads a model to the Hugging Face Hub."""

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from .._extras import require
from ._card import model_card
from ._configuration import Configured
from ._fetch import HubFile, explain
from ._licence import README
from ._load import load
from ._readme import make_readme
from ._save import check_layout, save

if TYPE_CHECKING:
    from .layouts import WritableLayout
else:
    WritableLayout = str

_OURS: Final = re.compile(
    r"((open_clip_)?model|model-\d+-of-\d+)\.safetensors|(open_clip_)?model\.safetensors\.index\.json"
    r"|(|open_clip_|preprocessor_|processor_|tokenizer_)config\.json|tokenizer\.json|special_tokens_map\.json"
    r"|vocab\.json|merges\.txt"
)
"""The files at the top that a model that was there before can have, and that would be mixed with the new one."""


def push_to_hub(
    model: Configured | Path | str,
    repository: str,
    *,
    layout: WritableLayout = "vitrail",
    keep: Path | str | None = None,
    licence: str | None = None,
    private: bool = False,
    message: str | None = None,
) -> str:
    """Uploads a model to the Hugging Face Hub with huggingface_hub, in one commit.

    The repository is made if it does not exist. It gets the files that [`save`][vitrail.save] writes, and a `README.md`
    that describes the model and how to load it, unless it has one. Weights and settings of an older model at its top
    are removed in the same commit.

    !!! example

        ```python
        commit = vitrail.push_to_hub(model, "me/flowers", layout="timm", private=True)
        model = vitrail.from_hub("me/flowers", revision=commit)
        ```

    **Arguments:**

    - `model`: as in `save`, or a file or folder as `load` takes it, whose licence is kept.
    - `repository`: `"owner/name"`.
    - `layout`, `keep`: as in `save`: vitrail's own format, or what timm, Hugging Face or open_clip opens.
    - `licence`: the licence of the weights, as `"apache-2.0"`, for the files and the model card. `None` for that of the
        file, or for none if the model is in memory.
    - `private`: whether only you and your organisation may see it. A private repository stays private either way.
    - `message`: the message of the commit.

    **Returns:**

    The commit, 40 digits.

    **Raises:** `ValueError` if the name is not `owner/name`, or the repository is public and `private` is set;
    `PermissionError` if the token is missing or refused, or may not write there; `ConnectionError` if the Hub cannot be
    reached; what `load` and `save` raise, before anything is uploaded; `MissingExtraError` if huggingface_hub is not
    installed.
    """
    hub: Any = require("huggingface_hub", extra="hub")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"repository must be 'owner/name', got {repository!r}: name the account that it belongs to")
    check_layout(layout)
    if isinstance(model, str | Path):
        licence = model_card(model).licence if licence is None else licence
        model = cast(Configured, load(model))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        path = folder / "model.safetensors" if layout == "vitrail" else folder
        save(model, path, layout=layout, keep=keep, licence=licence)
        readme = make_readme(model_card(folder), place=repository, name=repository)
        with explain(HubFile(repository)):
            api = hub.HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            if private and not api.repo_info(repository).private:
                raise ValueError(
                    f"private must be false for {repository}, which is public: make it private on the Hub, or pass "
                    "another name"
                )
            there = [name for name in api.list_repo_files(repository) if _OURS.fullmatch(name)]
            if not api.file_exists(repository, README):
                (folder / README).write_text(readme, "utf-8")
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message=message or "Upload a model with vitrail",
                delete_patterns=there,
            )
    return str(commit.oid)
