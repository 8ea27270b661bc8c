"""What SAM adds: attention within windows, relative positions and a neck, against NumPy written as loops."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, parameters, random_array, randomise, run, small_config, small_model, tokens_of
from reference import float64, np_conv, np_layer_norm, np_mlp, np_softmax, numpy_block_weights

import vitrail
from vitrail import (
    EncoderOptions,
    EncoderSize,
    Execution,
    Neck,
    RelativePosition,
    Tokens,
    WindowedEncoder,
    WindowOptions,
)
from vitrail.encoder import make_windowed_encoder

KEY = jax.random.key(0)
SIZE = EncoderSize(dim=8, depth=3, num_heads=2, mlp_dim=10)
GRID = (4, 5)
TOKENS = tokens_of(jnp.zeros((0, 8)), random_array(20, 8), GRID, class_token=False)
OPTIONS = {
    "windows": WindowOptions(size=3),
    "some look at all": WindowOptions(size=3, global_blocks=(1,)),
    "relative": WindowOptions(size=3, global_blocks=(0, 2), relative_grid=GRID),
    "relative, all look at all": WindowOptions(size=3, global_blocks=(0, 1, 2), relative_grid=GRID),
    "relative, none looks at all": WindowOptions(size=2, relative_grid=GRID),
    "windows as large as the grid": WindowOptions(size=5, global_blocks=(1,), relative_grid=GRID),
}
WINDOWS, NECK = {"windows": WindowOptions(2)}, {"neck_dim": 6}


def encoder(windows: WindowOptions, options: EncoderOptions = EncoderOptions()) -> WindowedEncoder:
    """An encoder with random parameters."""
    return randomise(
        lambda: make_windowed_encoder(
            SIZE, options=options, windows=windows, grid=GRID, init=vitrail.TRUNC_NORMAL, key=KEY
        )
    )


def np_attention_on(
    x: np.ndarray, w: dict[str, np.ndarray], num_heads: int, tables: tuple[np.ndarray, np.ndarray] | None
) -> np.ndarray:
    """Attention of all tokens of a grid to all, `(rows, cols, dim)`; each score by itself."""
    rows, cols, dim = x.shape
    head_dim, tokens = dim // num_heads, rows * cols
    flat, outputs = x.reshape(tokens, dim), []
    for head in range(num_heads):
        own = slice(head * head_dim, (head + 1) * head_dim)
        q, k, v = (flat @ w[f"w{name}"][own].T + w[f"b{name}"][own] for name in "qkv")
        scores = np.zeros((tokens, tokens))
        for i in range(tokens):
            for j in range(tokens):
                scores[i, j] = q[i] @ k[j] / math.sqrt(head_dim)
                if tables is not None:
                    by_row, by_col = tables
                    scores[i, j] += q[i] @ by_row[i // cols - j // cols + rows - 1]
                    scores[i, j] += q[i] @ by_col[i % cols - j % cols + cols - 1]
        outputs.append(np_softmax(scores) @ v)
    return (np.concatenate(outputs, axis=1) @ w["wo"].T + w["bo"]).reshape(rows, cols, dim)


def np_encoder(model: WindowedEncoder, tokens: Tokens) -> np.ndarray:
    """All blocks on a grid, window by window where a block has windows."""
    windows = model.windows
    x, eps = float64(tokens.patches).reshape(*tokens.grid, -1), model.options.norm_eps
    seen = {True: 0, False: 0}
    for number, block in enumerate(model.blocks):
        w, everywhere = numpy_block_weights(block), number in windows.global_blocks
        positions = model.global_positions if everywhere else model.window_positions
        tables = None
        if positions is not None:
            tables = float64(positions.rows[seen[everywhere]]), float64(positions.cols[seen[everywhere]])
        seen[everywhere] += 1
        normal = np_layer_norm(x, w["g1"], w["h1"], eps)
        if everywhere:
            attended = np_attention_on(normal, w, SIZE.num_heads, tables)
        else:
            attended = np.zeros_like(x)
            for top in range(0, x.shape[0], windows.size):
                for left in range(0, x.shape[1], windows.size):
                    inside = normal[top : top + windows.size, left : left + windows.size]
                    window = np.zeros((windows.size, windows.size, x.shape[2]))
                    window[: inside.shape[0], : inside.shape[1]] = inside
                    found = np_attention_on(window, w, SIZE.num_heads, tables)
                    attended[top : top + windows.size, left : left + windows.size] = found[
                        : inside.shape[0], : inside.shape[1]
                    ]
        x = x + attended
        flat = x.reshape(-1, x.shape[2])
        x = x + np_mlp(np_layer_norm(flat, w["g2"], w["h2"], eps), w, "gelu").reshape(x.shape)
    return x.reshape(-1, x.shape[2])


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("scan", [True, False])
def test_windows_equal_numpy_by_loops(name: str, scan: bool) -> None:
    model = encoder(OPTIONS[name])
    assert_close(run(model, TOKENS.patches, execution=Execution(scan=scan)), np_encoder(model, TOKENS), tolerance=2e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_windows_equal_numpy_by_loops_where_there_are_many_tokens(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrail.nn._attend._MANY", 3)
    model = encoder(OPTIONS[name])
    assert_close(model(TOKENS.patches), np_encoder(model, TOKENS), tolerance=2e-5)


def test_gradients_reach_every_block_and_table_scanned_unrolled_and_rematerialised() -> None:
    target = random_array(20, 8, seed=3)

    @eqx.filter_jit
    def gradient_of(model: WindowedEncoder, execution: Execution) -> Any:
        return eqx.filter_grad(lambda m: jnp.vdot(m(TOKENS.patches, execution=execution), target))(model)

    model = encoder(OPTIONS["relative"])
    expected = parameters(gradient_of(model, Execution()))
    assert any("window_positions" in path for path in expected)
    for path, gradient in expected.items():
        assert jnp.isfinite(gradient).all(), path
        flat = gradient.reshape(gradient.shape[0], -1) if "pre_norm" not in path else gradient[None]
        assert jnp.any(flat != 0, axis=1).all(), path
    for scan, remat in ((True, "blocks"), (False, "products")):
        found = parameters(gradient_of(model, Execution(scan=scan, remat=remat)))
        for path, gradient in expected.items():
            assert_close(found[path], gradient, tolerance=5e-5)


def test_tables_of_another_grid_are_interpolated_linearly() -> None:
    """At twice the distances, as `torch.nn.functional.interpolate` in mode linear puts the samples."""
    position = randomise(lambda: RelativePosition((2, 3), 4))
    q = random_array(1, 12, 4)
    found = np.asarray(position(q, (4, 3)), np.float64)
    places = np.clip((np.arange(7) + 0.5) * 3 / 7 - 0.5, 0, 2)
    rows = np.stack([np.interp(places, np.arange(3), channel) for channel in float64(position.rows).T], axis=1)
    cols, queries = float64(position.cols), float64(q)[0]
    for i in range(12):
        for j in range(12):
            expected = queries[i] @ rows[i // 3 - j // 3 + 3] + queries[i] @ cols[i % 3 - j % 3 + 2]
            assert abs(found[0, i, j] - expected) < 1e-5


def test_a_neck_is_two_convolutions_and_a_norm() -> None:
    neck = randomise(lambda: Neck(8, 6, init=vitrail.TRUNC_NORMAL, key=KEY))
    found = run(neck, TOKENS)
    x = float64(TOKENS.patches).reshape(*GRID, 8) @ float64(neck.project.weight).T
    x = np_layer_norm(x, float64(neck.norm.weight), float64(neck.norm.bias), 1e-6)
    expected = np_conv(x, float64(neck.weight), (1, 1), padding=1)
    assert (found.grid, found.num_prefix) == (GRID, 0)
    assert_close(found.patch_grid, expected)


def test_a_model_with_windows_and_a_neck_is_a_model_like_any_other() -> None:
    windows = WindowOptions(size=2, global_blocks=(1,), relative_grid=(2, 3))
    model = small_model(windows=windows, neck_dim=6)
    image = random_array(8, 12, 3)
    assert (model.config.token_dim, model.readout.pool.out_dim) == (6, 6)
    assert run(model, image).shape == (5,)
    assert run(model.backbone, image).patches.shape == (6, 6)
    grids = run(model.backbone.activations, image, at=("tokens", "mlp_hidden"), layers=(0, -1), form="grid")
    assert {name: grid.shape for name, grid in grids.items()} == {"tokens": (2, 2, 3, 16), "mlp_hidden": (2, 2, 3, 24)}
    larger = model.resized((16, 20))
    assert run(larger, random_array(16, 20, 3)).shape == (5,)
    other = vitrail.replace(model, pool="attention", num_classes=2, key=KEY)
    assert run(other, image).shape == (2,)
    half = model.with_execution(Execution(compute_dtype="bfloat16"))
    assert_close(run(half, image), run(model, image), tolerance=0.1)
    with pytest.raises(ValueError, match="encoder with windows cannot show or edit 'keys', 'attention_weights'"):
        model.backbone.activations(image, at=("tokens", "keys", "attention_weights"))
    with pytest.raises(ValueError, match="encoder with windows cannot show or edit 'attention_heads'"):
        model.backbone(image, edit={"attention_heads": lambda value, layer: value})
    for attention in ("cudnn", 4):
        with pytest.raises(ValueError, match=f"attention={attention!r} cannot compute relative positions"):
            model.with_execution(Execution(compute_dtype="bfloat16", attention=attention))


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        *(
            (part, changes, f"windows and a neck take patches alone, got a class token: use .*, in place of {which}")
            for part in (WINDOWS, NECK)
            for changes, which in (
                ({"pool": "cls"}, "the pool 'cls'"),
                ({"class_token": True}, ".* and class_token=True"),
            )
        ),
        *(
            (
                WINDOWS,
                {"position": name},
                f"position embedding '{name}' acts within attention, .*: use position='learned'",
            )
            for name in ("rope", "rope_mixed", "learned_rope", "relative_bias")
        ),
    ],
    ids=str,
)
def test_parts_that_do_not_go_with_windows_or_a_neck_are_refused(
    part: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    model = eqx.filter_eval_shape(small_config(**part).build, key=KEY)
    with pytest.raises(ValueError, match=message):
        eqx.filter_eval_shape(small_config(**part, **changes).build, key=KEY)
    with pytest.raises(ValueError, match=message):
        eqx.filter_eval_shape(lambda: vitrail.replace(model, **changes, key=KEY))


def test_tokens_that_windows_and_necks_do_not_take_are_refused() -> None:
    with pytest.raises(ValueError, match=r"each cell of the grid \(4, 5\), got 2 tokens"):
        encoder(WindowOptions(2))(TOKENS.patches[:2])
    rotation = vitrail.Rotation(jnp.zeros((20, 2)), num_prefix=0, interleaved=True)
    with pytest.raises(ValueError, match="got Rotation"):
        encoder(WindowOptions(2))(TOKENS.patches, position=rotation)
    with pytest.raises(ValueError, match="no registers before a neck, got 1"):
        Neck(8, 6, init=vitrail.TRUNC_NORMAL, key=KEY)(tokens_of(jnp.zeros((1, 8)), TOKENS.patches, GRID))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WindowOptions(0), "size must be positive"),
        (lambda: WindowOptions(2, relative_grid=(0, 2)), "relative_grid must be positive"),
        (lambda: encoder(WindowOptions(2, global_blocks=(3,))), "global_blocks must be different blocks from 0 to 2"),
        (
            lambda: encoder(WindowOptions(2, global_blocks=(1, 1))),
            "global_blocks must be different blocks from 0 to 2",
        ),
        (lambda: small_config(neck_dim=0), "neck_dim must be positive"),
        (lambda: small_config(**WINDOWS, num_registers=3), "num_registers must be 0 with windows or a neck"),
        (lambda: small_config(**NECK, num_registers=3), "num_registers must be 0 with windows or a neck"),
        (lambda: RelativePosition((2, 0), 4), "grid must be positive"),
    ],
)
def test_windows_that_cannot_be_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("strategy", ["cudnn", 4])
def test_attention_with_a_bias_has_no_other_strategy(strategy: Any) -> None:
    attention = encoder(OPTIONS["relative"]).blocks[0].attention
    position = RelativePosition(GRID, 4)
    with pytest.raises(ValueError, match=f"attention={strategy!r} does not take a bias"):
        attention(TOKENS.patches, bias=lambda q: position(q, GRID), strategy=strategy)
