"""Models by name: what vitrail asks the Hub for, what it does with the answers, and the list of published models."""

import dataclasses
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import huggingface_hub
import jax
import numpy as np
import pytest
from checkpoint_cases import Case, load_cases, published
from helpers import small_model
from hub_stand_in import TOKEN, Repository, StandIn, serve
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file
from text_models import make_model, write_model

import vitrail
from vitrail.cli import main
from vitrail.weights import LAYOUTS
from vitrail.weights._licence import read_readme_licence

CASES = load_cases()
HF = CASES["transformers ViTForImageClassification"]
TIMM = next(case for case in CASES.values() if case.layout == "timm")
NAME = "timm/vit_small_patch14_dinov2.lvd142m"


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with serve() as server:
        yield server


@pytest.fixture
def hub(server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The stand-in, with nothing in it and nothing in the cache."""
    server.repositories.clear()
    server.asked.clear()
    server.down, server.is_full = None, False
    for name, value in {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_STORED_TOKENS_PATH": str(tmp_path / "tokens"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return server


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def files_of_case(case: Case, folder: Path) -> dict[str, bytes]:
    published(case, folder)
    return files_of(folder)


def error_of(action: Any, kind: type[Exception]) -> str:
    """The one sentence or two of an error."""
    with pytest.raises(kind) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


# Loading -----------------------------------------------------------------------------------------------------------


def test_a_repository_is_loaded_by_its_names_and_only_what_it_needs(hub: StandIn, tmp_path: Path) -> None:
    more = {"README.md": b"-", "pytorch_model.bin": b"-", "tokenizer.json": b"{}", "flax_model.msgpack": b"-"}
    repository = hub.repositories[NAME] = Repository()
    commit = repository.commit(files_of_case(TIMM, tmp_path / "timm") | more)
    expected = vitrail.load(tmp_path / "timm")
    assert eqx.tree_equal(vitrail.from_hub("dinov2-s/14"), expected)
    assert hub.downloaded() == ["README.md", "config.json", "model.safetensors"]
    for name in (NAME, NAME.removeprefix("timm/"), "vit_small_patch14_dinov2", f"hub:{NAME}@main"):
        card = vitrail.model_card(name)
        assert (card.repository, card.commit) == (NAME, commit)
    assert eqx.tree_equal(vitrail.load(NAME), expected)
    placed: list[Any] = []

    def place(outline: Any) -> Any:
        placed.append(outline)
        return jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), outline)

    options: Any = {"channels": 4, "channel_rule": "zero", "shardings": place}
    found = vitrail.from_hub(NAME, **options)
    assert found.config.channels == 4
    assert len(placed) == 1
    assert eqx.tree_equal(found, vitrail.load(tmp_path / "timm", **options))
    assert vitrail.model_card(tmp_path / "timm").commit is None
    assert vitrail.model_card(expected).commit is None


def test_a_card_needs_the_header_alone(hub: StandIn, tmp_path: Path) -> None:
    """Of one file and of several, with the licence of the model card; the numbers come with the model."""
    readme = b"---\ntags:\n- vision\nlicense: mit\n---\n# A model\n"
    files = files_of_case(HF, tmp_path / "hf") | {"README.md": readme}
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    shards = {f"model-0000{i + 1}-of-00002.safetensors": sorted(tensors)[i::2] for i in range(2)}
    parts = {name: content for name, content in files.items() if name != "model.safetensors"}
    for shard, names in shards.items():
        save_file({name: tensors[name] for name in names}, tmp_path / shard)
        parts[shard] = (tmp_path / shard).read_bytes()
    weight_map = {name: shard for shard, names in shards.items() for name in names}
    parts["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    (tmp_path / "hf" / "README.md").write_bytes(readme)
    expected = vitrail.model_card(tmp_path / "hf")
    assert expected.licence == "mit"
    for name, content in (("me/one", files), ("me/parts", parts)):
        hub.repositories[name] = Repository()
        commit = hub.repositories[name].commit(content)
        hub.asked.clear()
        card = vitrail.model_card(f"hub:{name}")
        assert dataclasses.replace(card, repository=None, commit=None) == expected
        assert (card.repository, card.commit) == (name, commit)
        whole = [each for each in hub.downloaded() if each.endswith(".safetensors")]
        assert whole == []
        assert any(each.endswith(".safetensors bytes=0-100000") for each in hub.downloaded())
        model = vitrail.load(f"hub:{name}")
        hub.asked.clear()
        assert vitrail.model_card(f"hub:{name}") == card
        assert hub.downloaded() == []
        assert eqx.tree_equal(model, vitrail.load(tmp_path / "hf"))
    # What is no header is said as for a file.
    hub.repositories["me/one"].commit(files | {"model.safetensors": b"<html>"})
    with pytest.raises(vitrail.CheckpointError, match="it is a page in HTML"):
        vitrail.model_card("hub:me/one")


def test_a_licence_is_carried_from_wherever_it_is(hub: StandIn, tmp_path: Path) -> None:
    """From a model card, from the list of models, through a conversion and into an upload."""
    case = published(HF, tmp_path / "hf").parent
    assert vitrail.model_card(case).licence is None
    hub.repositories["facebook/dinov2-small"] = Repository()
    hub.repositories["facebook/dinov2-small"].commit(files_of(case))
    assert vitrail.model_card("facebook/dinov2-small").licence == "apache-2.0"
    done = vitrail.convert("facebook/dinov2-small", tmp_path / "own.safetensors")
    assert (done.card.licence, vitrail.model_card(done.path).licence) == ("apache-2.0", "apache-2.0")
    for front, licence in (
        ("license: other\nlicense_name: apple-amlr\n", "apple-amlr"),
        ("license: 'cc-by-4.0'\r\n", "cc-by-4.0"),
        ("license: mit # as the code\n", "mit"),
        ('license: "mit"  # as the code\n', "mit"),
        ("license: a#b\n", "a#b"),
        ("license: other\nlicense_name: \"caf\\u00e9 '#1'\"\n", "café '#1'"),
        ("license: # none yet\n", None),
        ("tags: x\n", None),
    ):
        text = f"---\n{front}---\nlicense: mit\n".encode()
        for written in (text, text.replace(b"\r", b"").replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + text):
            (case / "README.md").write_bytes(written)
            assert read_readme_licence(case / "model.safetensors") == licence
        assert vitrail.model_card(case).licence == licence
    (case / "README.md").write_text("license: mit\n")
    assert vitrail.model_card(case).licence is None


def test_the_default_branch_moves_and_a_revision_does_not(hub: StandIn, tmp_path: Path) -> None:
    repository = hub.repositories["me/model"] = Repository()
    models = [small_model(), small_model().with_dropout(vitrail.Dropout(rate=0.0))]
    models = [models[0], eqx.tree_at(lambda m: m.backbone.patch.weight, models[1], replace_fn=lambda w: w + 1)]
    commits: list[str] = []
    for model in models:
        vitrail.save(model, tmp_path / "model.safetensors")
        commits.append(repository.commit({"model.safetensors": (tmp_path / "model.safetensors").read_bytes()}))
        assert eqx.tree_equal(vitrail.from_hub("me/model"), model)
        assert vitrail.model_card("hub:me/model").commit == commits[-1]
    repository.refs["v1.0"] = commits[0]
    for revision in (commits[0], "v1.0"):
        assert eqx.tree_equal(vitrail.from_hub("me/model", revision=revision), models[0])
        assert eqx.tree_equal(vitrail.load(f"hub:me/model@{revision}"), models[0])
    execution = vitrail.Execution(compute_dtype="bfloat16")
    half = vitrail.from_hub("me/model", revision=commits[1], execution=execution)
    assert eqx.tree_equal(half, models[1].with_execution(execution))


def test_both_towers_come_with_their_tokenizer_and_the_file_can_be_chosen(hub: StandIn, tmp_path: Path) -> None:
    """As timm's repositories of CLIP: a file for each library."""
    write_model("openai_clip", tmp_path / "clip")
    files = files_of(tmp_path / "clip")
    files["open_clip_model.safetensors"] = files.pop("model.safetensors")
    name = "timm/vit_base_patch16_clip_224.openai"
    hub.repositories[name] = Repository()
    hub.repositories[name].commit(files | files_of_case(TIMM, tmp_path / "timm"))
    assert eqx.tree_equal(vitrail.from_hub(name), vitrail.load(tmp_path / "timm"))
    assert hub.downloaded() == ["config.json", "model.safetensors", "open_clip_config.json"]
    expected = vitrail.load(tmp_path / "clip")
    assert isinstance(expected, vitrail.ImageText)
    assert expected.config.tokenizer is not None
    assert eqx.tree_equal(vitrail.load("clip-b/16"), expected)
    for load in (vitrail.from_hub, vitrail.load):
        assert eqx.tree_equal(load(f"{name}/open_clip_model.safetensors"), expected)
    message = error_of(lambda: vitrail.from_hub(f"hub:{name}/nope.safetensors"), FileNotFoundError)
    assert "has no file 'nope.safetensors'" in message
    assert f"'hub:{name}/open_clip_model.safetensors'" in message
    assert "bpe_simple_vocab_16e6.txt" in hub.downloaded()


def test_a_checkpoint_in_several_files_is_loaded(hub: StandIn, tmp_path: Path) -> None:
    files = files_of_case(HF, tmp_path / "whole")
    tensors = load_file(tmp_path / "whole" / "model.safetensors")
    names = sorted(tensors)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for shard, some in shards.items():
        save_file({name: tensors[name] for name in some}, tmp_path / shard)
        files[shard] = (tmp_path / shard).read_bytes()
    index = {"weight_map": {name: shard for shard, some in shards.items() for name in some}}
    del files["model.safetensors"]
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    hub.repositories["google/parts"] = Repository()
    hub.repositories["google/parts"].commit(files)
    for _ in range(2):
        assert eqx.tree_equal(vitrail.from_hub("google/parts"), vitrail.load(tmp_path / "whole"))


def test_without_a_network_the_cache_counts(hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories[NAME] = Repository()
    commit = hub.repositories[NAME].commit(files_of_case(TIMM, tmp_path / "timm"))
    assert "the Hub answers 503" in error_of(lambda: _load_while(hub, 503), ConnectionError)
    # The settings alone, as of a download that was interrupted.
    huggingface_hub.snapshot_download(NAME, allow_patterns=["config.json"])
    assert "the Hub answers 503" in error_of(lambda: _load_while(hub, 503), ConnectionError)
    model = vitrail.from_hub(NAME)
    hub.down = 503
    assert eqx.tree_equal(vitrail.from_hub(NAME), model)
    hub.down = None
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(hub.asked)
    assert eqx.tree_equal(vitrail.from_hub(NAME), model)
    assert eqx.tree_equal(vitrail.from_hub(NAME, revision=commit), model)
    message = error_of(lambda: vitrail.from_hub("me/other"), ConnectionError)
    assert message == (
        "me/other is not whole in the cache, and HF_HUB_OFFLINE keeps huggingface_hub from the network: unset it, and "
        "load the model once"
    )
    assert len(hub.asked) == asked


def _load_while(hub: StandIn, status: int) -> None:
    hub.down = status
    try:
        vitrail.from_hub(NAME)
    finally:
        hub.down = None


def test_no_network_is_said(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    message = error_of(lambda: vitrail.from_hub(NAME), ConnectionError)
    assert message == f"{NAME} is not whole in the cache, and the Hub cannot be reached: check the network"


def test_what_is_missing_or_closed_is_said(hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_of_case(TIMM, tmp_path / "timm")
    hub.repositories["facebook/gated"] = Repository(gated=True)
    hub.repositories["me/model"] = Repository()
    for name in ("facebook/gated", "me/model"):
        hub.repositories[name].commit(files)
    assert "the Hub has no repository 'me/mdoel', or it is private" in error_of(
        lambda: vitrail.from_hub("me/mdoel"), FileNotFoundError
    )
    assert "me/model has no branch, tag or commit 'v2'" in error_of(
        lambda: vitrail.from_hub("me/model", revision="v2"), FileNotFoundError
    )
    for token in ("", TOKEN):
        monkeypatch.setenv("HF_TOKEN", token)
        message = error_of(lambda: vitrail.from_hub("facebook/gated"), PermissionError)
        assert message == (
            f"facebook/gated is gated: accept its terms at {hub.url}/facebook/gated and run `hf auth login`, or set "
            "HF_TOKEN"
        )
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "the Hub wants a valid token" in error_of(lambda: vitrail.from_hub("me/model"), PermissionError)
    for wrong in ("me//model", "me/" + "x" * 200, "me/mo del"):
        assert "'owner/name'" in error_of(lambda wrong=wrong: vitrail.from_hub(wrong), ValueError)
    message = error_of(lambda: vitrail.from_hub("me/model@main", revision="main"), ValueError)
    assert "revision must be given once" in message


def test_a_repository_without_weights_to_read_says_what_to_do(hub: StandIn, tmp_path: Path) -> None:
    repository = hub.repositories["me/model"] = Repository()
    config = (published(TIMM, tmp_path / "timm").parent / "config.json").read_bytes()
    repository.commit({"config.json": config, "pytorch_model.bin": b"-"})
    message = error_of(lambda: vitrail.from_hub("me/model"), vitrail.CheckpointError)
    assert message == (
        "me/model has its weights as a pickle of PyTorch alone: run `hf download me/model --include '*.json' "
        "'pytorch_model*' --local-dir DIR` and `vitrail convert --from-torch DIR/pytorch_model.bin "
        "DIR/model.safetensors`"
    )
    repository.commit({"README.md": b"-"})
    assert "has no weights that vitrail reads, got the files 'README.md'" in error_of(
        lambda: vitrail.from_hub("me/model"), vitrail.CheckpointError
    )
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    assert zipfile.is_zipfile(tmp_path / "other.npz")
    repository.commit({"other.npz": (tmp_path / "other.npz").read_bytes()})
    assert "pass one as 'hub:me/model/other.npz'" in error_of(
        lambda: vitrail.from_hub("me/model"), vitrail.CheckpointError
    )
    with pytest.raises(vitrail.CheckpointError, match=r"other\.npz has no layout that vitrail knows"):
        vitrail.from_hub("me/model/other.npz")


def test_a_path_comes_first_and_a_wrong_one_is_no_name(
    hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dinov2-s").mkdir()
    vitrail.save(small_model(), Path("dinov2-s", "14"))
    assert eqx.tree_equal(vitrail.load("dinov2-s/14"), small_model())
    for path in ("weights/model.safetensors", "./dinov2-b/14", Path("dinov2-b/14"), str(tmp_path / "none")):
        message = error_of(lambda path=path: vitrail.load(path), FileNotFoundError)
        assert message == f"{Path(path)} is not a file or a folder: check the path"
    message = error_of(lambda: vitrail.load("dinov2-m/14"), FileNotFoundError)
    assert "the nearest are 'dinov2-" in message
    assert "hub:owner/name" in message
    assert "'dinov2-" in error_of(lambda: vitrail.from_hub("dinov2-m14"), ValueError)
    assert hub.asked == []


def test_commands_take_names(hub: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.repositories[NAME] = Repository()
    commit = hub.repositories[NAME].commit(files_of_case(TIMM, tmp_path / "timm"))
    assert main(["inspect", "dinov2-s/14"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"repository  {NAME} at {commit}"
    assert main(["inspect", "hub:me/none"]) == 1
    assert capsys.readouterr().err == (
        "vitrail: error: the Hub has no repository 'me/none', or it is private: check the name; if it is private, run "
        "`hf auth login`, or set HF_TOKEN\n"
    )


# Uploading ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def token(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.mark.usefixtures("token")
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub's own
def test_a_file_is_uploaded_with_its_licence(hub: StandIn, tmp_path: Path) -> None:
    vitrail.save(small_model(), tmp_path / "own.safetensors", licence="cc-by-nc-4.0")
    vitrail.push_to_hub(tmp_path / "own.safetensors", "me/own")
    assert vitrail.model_card("hub:me/own").licence == "cc-by-nc-4.0"
    assert eqx.tree_equal(vitrail.from_hub("me/own"), small_model())
    repository = hub.repositories["me/own"]
    assert b"license: cc-by-nc-4.0" in repository.commits[repository.refs["main"]]["README.md"]
    vitrail.push_to_hub(str(tmp_path / "own.safetensors"), "me/own", licence="mit")
    assert vitrail.model_card("hub:me/own").licence == "mit"


@pytest.mark.usefixtures("token")
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub's own
def test_a_model_is_uploaded_in_one_commit_and_loads_again(hub: StandIn) -> None:
    model = make_model("openai_clip")
    commit = vitrail.push_to_hub(model.image, "me/vit", private=True)
    repository = hub.repositories["me/vit"]
    assert repository.private
    assert repository.refs["main"] == commit
    assert list(repository.commits)[1:] == [commit]
    assert set(repository.commits[commit]) == {".gitattributes", "README.md", "model.safetensors"}
    assert eqx.tree_equal(vitrail.from_hub("me/vit", revision=commit), model.image)
    readme = repository.commits[commit]["README.md"].decode()
    assert 'vitrail.from_hub("me/vit")' in readme
    # Another layout in its place: the README stays, and no file of the old model does.
    repository.commits[commit]["README.md"] = b"mine"
    repository.commits[commit]["config.json"] = b"{}"
    # What is of somebody stays: in folders, and at the top by other names.
    own = dict.fromkeys(("sub/model.safetensors", "onnx/config.json", "training_config.json"), b"mine")
    repository.commits[commit] |= own | {"model-00001-of-00002.safetensors": b"old", "vocab.json": b"{}"}
    commit = vitrail.push_to_hub(model, "me/vit", layout="openai_clip", licence="mit", message="Both towers")
    files = repository.commits[commit]
    assert files["README.md"] == b"mine"
    assert set(files) == {".gitattributes", "README.md", "model.safetensors", "open_clip_config.json", *own}
    assert eqx.tree_equal(vitrail.from_hub("me/vit"), vitrail.from_hub("me/vit", revision=commit))


@pytest.mark.usefixtures("token")
def test_nothing_private_is_uploaded_to_a_public_repository(hub: StandIn) -> None:
    hub.repositories["me/open"] = Repository()
    hub.repositories["me/open"].commit({"README.md": b"-"})
    message = error_of(lambda: vitrail.push_to_hub(small_model(), "me/open", private=True), ValueError)
    assert "private must be false for me/open, which is public" in message
    assert len(hub.repositories["me/open"].commits) == 1


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub's own
def test_an_upload_without_the_right_to_is_refused(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "hf auth login" in error_of(lambda: vitrail.push_to_hub(small_model(), "me/vit"), PermissionError)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    message = error_of(lambda: vitrail.push_to_hub(small_model(), "other/vit"), PermissionError)
    assert "may not do this with other/vit" in message
    hub.is_full = True
    message = error_of(lambda: vitrail.push_to_hub(small_model(), "me/vit"), PermissionError)
    assert "may not do this with me/vit" in message
    assert len(hub.repositories["me/vit"].commits) == 1
    for name in ("flowers", "a/b/c", "me/"):
        assert "must be 'owner/name'" in error_of(
            lambda name=name: vitrail.push_to_hub(small_model(), name), ValueError
        )
    broken = eqx.tree_at(lambda m: m.backbone.patch.weight, small_model(), replace_fn=lambda w: w[:1])
    hub.asked.clear()
    error_of(lambda: vitrail.push_to_hub(broken, "me/vit"), ValueError)
    assert hub.asked == []


# The list ----------------------------------------------------------------------------------------------------------


def test_the_list_has_what_everyone_knows() -> None:
    models = {model.repository: model for model in vitrail.list_models() if model.task != "image-text"}
    assert len(models) > 350
    dinov2 = models[NAME]
    assert (dinov2.family, dinov2.organisation, dinov2.data) == ("DINOv2", "Meta", ("LVD-142M",))
    assert (dinov2.parameters, dinov2.image_size, dinov2.tokens) == (22_056_192, (518, 518), 37 * 37 + 1)
    assert (dinov2.licence, dinov2.is_commercial, dinov2.task, dinov2.pool) == ("apache-2.0", True, "features", "cls")
    assert dinov2.preprocess == vitrail.Preprocess(
        "cover", "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop=1.0
    )
    # By hand: 12 blocks of 12 * 384^2 + 13 * 384 with two layer scales, the embeddings and the last norm.
    block = 12 * 384**2 + 13 * 384 + 2 * 384
    assert dinov2.parameters == 12 * block + 384 * (3 * 14**2 + 1) + 384 * (37**2 + 2) + 2 * 384
    assert models["timm/vit_base_patch16_224.mae"].licence == "cc-by-nc-4.0"
    assert models["facebook/dinov2-small"].licence == "apache-2.0"
    # Its page says another licence than Meta, and OpenAI's none.
    for name in ("facebook/vit-mae-base", "openai/clip-vit-base-patch16"):
        assert all(model.licence is None for model in vitrail.list_models(name))
    assert "cc-by-nc-4.0" in models["facebook/vit-mae-base"].notes
    assert "gated" in models["facebook/dinov3-vits16-pretrain-lvd1689m"].notes
    for name, family in {"vit-mae-base": "MAE", "vit-msn-small": "MSN", "dino-vits16": "DINO"}.items():
        assert models[f"facebook/{name}"].family == family
    assert models["facebook/sam-vit-huge"].names == ("sam-h/16",)


def test_every_name_is_one_models_and_every_layout_is_known() -> None:
    models = vitrail.list_models()
    names = [name for model in models for name in model.names]
    assert len(names) == len(set(names))
    assert {model.layout for model in models} <= LAYOUTS.keys()
    assert len({(model.repository, model.file) for model in models}) == len(models)
    for short in ("dinov2-b/14-reg4", "dinov3-l/16", "vit-b/16", "clip-l/14-336", "siglip2-so400m/16-384", "mae-b/16"):
        assert short in names


def test_the_list_is_filtered() -> None:
    found = vitrail.list_models("*dinov2*", max_parameters=1e8, commercial=True)
    assert found
    assert all("dinov2" in m.repository and m.parameters <= 1e8 and m.licence in ("apache-2.0", "mit") for m in found)
    assert vitrail.list_models("DINOV2", max_parameters=1e8, commercial=True) == found
    both = vitrail.list_models(family="clip", task="image-text")
    assert both
    assert {(m.family, m.task) for m in both} == {("CLIP", "image-text")}
    assert vitrail.list_models("clip-b/16")[0].names
    assert vitrail.list_models("no such [model]") == ()
    with pytest.raises(ValueError, match=r"family must be one of .*'DINOv2'.* got 'dinov9'"):
        vitrail.list_models(family="dinov9")
    with pytest.raises(ValueError, match="max_parameters must be above zero, got 0"):
        vitrail.list_models(max_parameters=0)


def test_the_command_lists_models_in_a_narrow_terminal_and_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["list", "models", "dinov2", "--max-parameters", "90M", "--commercial"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{len(lines) - 2} of {len(vitrail.list_models())} models"
    assert any("dinov2-s/14 " in line and "22.1M" in line and "LVD-142M" in line for line in lines)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for width in (80, 100, 160):
        monkeypatch.setenv("COLUMNS", str(width))
        assert main(["list", "models"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= width
        assert any("timm/vit_small_patch14_dinov2.lvd142m" in line for line in lines)
        assert any(line.startswith("note: timm/vit_base_patch16_clip_224.openai,") for line in lines)
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    for arguments, said in (
        (["dinvo2"], "no model has 'dinvo2' in its name: the nearest are 'dinov2', 'dino'"),
        (["*dinov2-m/14*", "clip-b/16"], "no model has '*dinov2-m/14*' in its name: the nearest are 'dinov2-"),
        (["qqqq"], "no model has 'qqqq' in its name"),
        (["sam", "--task", "embed"], "the other options leave none of 5 models: leave some out"),
    ):
        assert main(["list", "models", *arguments]) == 0
        assert any(line.startswith(said) for line in capsys.readouterr().out.splitlines())
    for arguments, message in (
        (["models", "--max-parameters", "many"], "max-parameters must be a number as 90M or 1.2G, got 'many'"),
        (["pools", "mean"], "patterns has no effect with pools: leave it out"),
        (["heads", "--commercial"], "commercial has no effect with heads: leave it out"),
    ):
        assert main(["list", *arguments]) == 1
        assert message in capsys.readouterr().err
