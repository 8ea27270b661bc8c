"""The losses and heads of DINOv2's own package, and the pair-by-pair loss of DINO, beside ours."""

import argparse
import contextlib
import importlib
import io
import random
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from checkpoint_cases import image_of
from checkpoint_oracle import randomise
from system_cases import compare
from systems_dino import CASES, SIZE

import vitrail
from vitrail import images, systems

with contextlib.redirect_stderr(io.StringIO()):
    losses: Any = importlib.import_module("dinov2.loss")
    layers: Any = importlib.import_module("dinov2.layers.dino_head")

TOLERANCE = 1e-5


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_same(ours: Any, theirs: torch.Tensor) -> None:
    expected = theirs.detach().numpy()
    np.testing.assert_allclose(np.asarray(ours), expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process, whose sums over all are its own."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("nlayers", [1, 3])
def test_the_head_is_dinov2s(nlayers: int) -> None:
    theirs = randomise(layers.DINOHead(16, 50, nlayers=nlayers, hidden_dim=20, bottleneck_dim=8))
    state = {name: jnp.asarray(tensor.numpy()) for name, tensor in theirs.state_dict().items()}
    head: Any = vitrail.ProjectionHead(
        16, num_classes=50, layers=nlayers, hidden_dim=20, bottleneck_dim=8, key=jax.random.key(0)
    )
    mlp = [*head.hidden, head.bottleneck]
    names = ["mlp."] if nlayers == 1 else [f"mlp.{2 * i}." for i in range(nlayers)]
    mlp = [
        eqx.tree_at(lambda m: (m.weight, m.bias), m, (state[f"{n}weight"], state[f"{n}bias"]))
        for m, n in zip(mlp, names, strict=True)
    ]
    arrays = tuple(mlp[:-1]), mlp[-1], state["last_layer.weight_v"], state["last_layer.weight_g"][:, 0]
    head = eqx.tree_at(lambda h: (h.hidden, h.bottleneck, h.directions, h.scales), head, arrays)
    x = draw(6, 16)
    assert_same(head(jnp.asarray(x)), theirs(torch.from_numpy(x)))


@pytest.mark.parametrize("centring", ["centre", "sinkhorn"])
def test_the_loss_of_two_large_and_some_small_crops_is_dinov2s(centring: str) -> None:
    teacher, student = draw(2, 4, 30), draw(5, 4, 30, seed=1)
    original = losses.DINOLoss(30)
    original.center = torch.from_numpy(draw(1, 30, seed=2))
    # The original swaps the crops of the teacher, so that each meets the other crop of the student.
    rows = torch.from_numpy(teacher[::-1].copy()).flatten(0, 1)
    ours: Any
    if centring == "centre":
        shares = original.softmax_center_teacher(rows, 0.07)
        ours = systems.centre_scores(jnp.asarray(teacher), jnp.asarray(original.center[0].numpy()), temperature=0.07)
    else:
        shares = original.sinkhorn_knopp_teacher(rows, 0.07)
        ours = systems.sinkhorn_knopp(jnp.asarray(teacher), temperature=0.07)
    swapped = shares.view(2, 4, 30)
    assert_same(ours[::-1], swapped)
    scores = torch.from_numpy(student).requires_grad_()
    small = original(list(scores[2:]), list(swapped)) / (2 + 6)
    large = original([scores[:2].flatten(0, 1)], [swapped.flatten(0, 1)]) * 2 / (2 + 6)
    (small + large).backward()
    loss, gradient = jax.value_and_grad(systems.dino_loss)(jnp.asarray(student), ours)
    assert_same(loss, small + large)
    assert scores.grad is not None
    assert_same(gradient, scores.grad)


def test_the_loss_of_dino_and_its_centre_are_those_of_its_training() -> None:
    """DINO's own training, pair by pair: no pair of the same crop, and the centre moves after the loss."""
    teacher, student, centre = draw(2, 4, 30), draw(8, 4, 30, seed=1), draw(30, seed=2)
    shares = torch.softmax((torch.from_numpy(teacher) - torch.from_numpy(centre)) / 0.04, dim=-1)
    terms = [
        torch.nn.functional.cross_entropy(torch.from_numpy(student[s]) / 0.1, shares[t])
        for t in range(2)
        for s in range(8)
        if s != t
    ]
    ours = systems.centre_scores(jnp.asarray(teacher), jnp.asarray(centre), temperature=0.04)
    assert_same(systems.dino_loss(jnp.asarray(student), ours), torch.stack(terms).mean())
    original = losses.DINOLoss(30)
    original.center = torch.from_numpy(centre)[None]
    original.update_center(torch.from_numpy(teacher).flatten(0, 1))
    original.apply_center_update()
    assert_same(systems.update_centre(jnp.asarray(centre), jnp.asarray(teacher)), original.center[0])


@pytest.mark.parametrize("centring", ["centre", "sinkhorn"])
def test_the_loss_of_hidden_patches_is_dinov2s(centring: str) -> None:
    teacher, student, centre = draw(6, 9, 30), draw(6, 9, 30, seed=1), draw(30, seed=2)
    hidden = np.random.default_rng(3).random((6, 9)) < 0.4
    hidden[2] = False
    masks = torch.from_numpy(hidden)
    original = losses.iBOTPatchLoss(30)
    original.center = torch.from_numpy(centre)[None, None]
    rows = torch.from_numpy(teacher)[masks]
    if centring == "centre":
        shares = original.softmax_center_teacher(rows[None], 0.07)[0]
        ours = systems.centre_scores(jnp.asarray(teacher), jnp.asarray(centre), temperature=0.07)
    else:
        shares = original.sinkhorn_knopp_teacher(rows, 0.07, torch.tensor([len(rows)]))
        ours = systems.sinkhorn_knopp(jnp.asarray(teacher), temperature=0.07, mask=jnp.asarray(hidden))
    assert_same(ours[jnp.asarray(hidden)], shares)
    scores = torch.from_numpy(student).requires_grad_()
    theirs = original.forward_masked(scores[masks], shares, student_masks_flat=masks)
    theirs.backward()
    loss, gradient = jax.value_and_grad(systems.ibot_loss)(jnp.asarray(student), ours, jnp.asarray(hidden))
    assert_same(loss, theirs)
    assert scores.grad is not None
    assert_same(gradient, scores.grad)
    original.update_center(rows[None])
    original.apply_center_update()
    moved = systems.update_centre(jnp.asarray(centre), jnp.asarray(teacher), mask=jnp.asarray(hidden))
    assert_same(moved, original.center[0, 0])


def test_the_checkpoint_of_a_run_is_converted_and_holds_the_teacher(tmp_path: Path) -> None:
    """As DINO's training writes it: both networks, the optimiser, the centre, and the arguments of the script."""
    case = CASES["Meta DINO, the teacher of a run"](image_of(SIZE))
    state = {name: torch.from_numpy(array) for name, array in case.tensors().items()}
    content = {
        "student": {name.removeprefix("student."): t for name, t in state.items() if name.startswith("student.")},
        "teacher": {name.removeprefix("teacher."): t for name, t in state.items() if name.startswith("teacher.")},
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", out_dim=20, lr=0.0005),
        "dino_loss": {"center": torch.zeros(1, 20)},
    }
    torch.save(content, tmp_path / "checkpoint.pth")
    _, left_out = vitrail.convert_torch(tmp_path / "checkpoint.pth", tmp_path / "dino.safetensors", pick="teacher")
    assert {"student", "optimizer", "args", "dino_loss"} <= set(left_out)
    found = compare(case, tmp_path / "dino.safetensors")
    assert max(found.values()) <= TOLERANCE, found


def test_the_teacher_of_dinov2_is_converted(tmp_path: Path) -> None:
    case = CASES["Meta DINOv2, one head for patches"](image_of(SIZE))
    state = {name.removeprefix("teacher."): torch.from_numpy(array) for name, array in case.tensors().items()}
    torch.save({"teacher": state}, tmp_path / "teacher_checkpoint.pth")
    vitrail.convert_torch(tmp_path / "teacher_checkpoint.pth", tmp_path / "dinov2.safetensors")
    found = compare(case, tmp_path / "dinov2.safetensors")
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_koleo_is_dinov2s() -> None:
    x = draw(12, 16)
    theirs = torch.from_numpy(x).requires_grad_()
    loss = losses.KoLeoLoss()(theirs)
    loss.backward()
    ours, gradient = jax.value_and_grad(systems.koleo_loss)(jnp.asarray(x))
    assert_same(ours, loss)
    assert theirs.grad is not None
    assert_same(gradient, theirs.grad)


@pytest.mark.parametrize("count", [0, 5, 40, 90])
def test_blocks_are_those_of_dinov2s_generator(count: int) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        masking: Any = importlib.import_module("dinov2.data.masking")
    generator = masking.MaskingGenerator((12, 10), max_num_patches=0.5 * 120)
    ratio = (count + 0.5) / 120  # of which the whole number is the count
    for seed in range(20):
        random.seed(seed)
        low, high = np.linspace(ratio, ratio, 2)
        expected = generator(int(120 * random.uniform(low, high)))
        found = systems.draw_hidden(1, (12, 10), seed=seed, share=1.0, ratios=(ratio, ratio))
        assert np.array_equal(found[0].reshape(12, 10), expected)


@pytest.mark.parametrize("size", [(7, 5), (16, 24), (40, 40)])
def test_a_crop_is_resized_as_torchvision_resizes_it(size: tuple[int, int]) -> None:
    functional: Any = importlib.import_module("torchvision.transforms.functional")
    transforms: Any = importlib.import_module("torchvision.transforms")
    image = draw(30, 20, 3)
    crops = images.Crops(number=1, size=size)
    for box in ((0, 0, 30, 20), (3, 2, 11, 17), (25, 15, 5, 5), (4, 9, 1, 3)):
        theirs = functional.resized_crop(
            torch.from_numpy(image).permute(2, 0, 1),
            *box,
            size=list(size),
            interpolation=transforms.InterpolationMode.BICUBIC,
            antialias=True,
        )
        ours = crops.cut(jnp.asarray(image), jnp.asarray(box, jnp.float32))
        assert_same(ours, theirs.permute(1, 2, 0))
