"""What makes it fast, counted and not timed: programs that do not grow, nothing transposed or compiled in vain."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, image_for, random_array, small_model

import vitrail

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import cases
import chart
import report
import run as benchmark

SIZE = {"dim": 32, "num_heads": 2, "mlp_dim": 80}
UNROLLED = vitrail.Execution(scan=False)
IMAGES = jax.ShapeDtypeStruct((2, 16, 24, 3), jnp.float32)


def model_of(depth: int, **execution: Any) -> vitrail.ViT:
    """The shapes of a small model whose widths all differ."""
    config = vitrail.ViTConfig(
        image_size=(16, 24),
        patch_size=(8, 8),
        size=vitrail.EncoderSize(depth=depth, **SIZE),
        num_classes=7,
    )
    model = eqx.filter_eval_shape(config.build, key=jax.random.key(0))
    return model.with_execution(vitrail.Execution(**execution))


def forward(model: Any, images: Any) -> Any:
    return jax.vmap(model)(images)


def train(model: Any, images: Any) -> Any:
    """A step of gradient descent."""
    gradient = eqx.filter_grad(lambda m: jnp.mean(jnp.square(jax.vmap(m)(images))))(model)
    return eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, gradient))


def lowered(function: Callable[..., Any], model: Any, images: Any) -> Any:
    """The program for shapes alone."""
    shapes, static = eqx.partition(model, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def run(shapes: Any, images: Any) -> Any:
        return eqx.filter(function(eqx.combine(shapes, static), images), eqx.is_array)

    return jax.jit(run).lower(shapes, images)


def compiled(function: Callable[..., Any], model: vitrail.ViT, images: Any = IMAGES) -> Any:
    return lowered(function, model, images).compile()


def instructions(program: Any) -> list[str]:
    return re.findall(r"^\s+(?:ROOT )?%?[\w.\-]+ = .*", program.as_text(), re.MULTILINE)


@pytest.mark.parametrize("function", [forward, train])
def test_a_scanned_program_has_as_many_instructions_at_any_depth(function: Callable[..., Any]) -> None:
    shallow, deep = (len(instructions(compiled(function, model_of(depth)))) for depth in (3, 9))
    assert shallow == deep
    assert len(instructions(compiled(function, model_of(9, scan=False)))) > 2 * deep


@pytest.mark.parametrize("function", [forward, train])
def test_no_weight_is_transposed_within_the_loop(function: Callable[..., Any]) -> None:
    weights = {(96, 32), (32, 32), (80, 32), (32, 80)}
    shapes = {side for shape in weights for side in (shape, shape[::-1])}
    text = compiled(function, model_of(3)).as_text()
    assert " while(" in text
    loops = reached_from_loops(text)
    seen = set[tuple[int, ...]]()
    for line in re.findall(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*)", loops, re.MULTILINE):
        shape, operation = re.match(r"\w+\[([\d,]*)\]\S* ([\w\-]+)\(|", line).groups()  # pyright: ignore
        dims = tuple(int(n) for n in shape.split(",") if n != "1") if shape else ()
        seen.add(dims)
        assert not (operation in ("transpose", "copy") and dims in shapes), line
    assert seen >= weights, "the test sees the slices of all weights"


def reached_from_loops(text: str) -> str:
    """The computations of compiled HLO that the bodies of loops are or call."""
    bodies = dict(re.findall(r"^%?([\w.\-]+) \(.*?\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL))
    names, found = re.findall(r"body=%?([\w.\-]+)", text), dict[str, str]()
    while names:
        name = names.pop()
        if name in bodies and name not in found:
            found[name] = bodies[name]
            names += re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", bodies[name])
    return "\n".join(found.values())


def test_keeping_less_takes_a_third_of_the_memory_away() -> None:
    many = jax.ShapeDtypeStruct((64, *IMAGES.shape[1:]), jnp.float32)  # so that activations are most of the memory
    kept = {
        remat: compiled(train, model_of(12, remat=remat), many).memory_analysis().temp_size_in_bytes
        for remat in ("products", "attention", "blocks")
    }
    assert kept["attention"] < kept["products"] * 2 / 3
    assert kept["blocks"] < kept["attention"]


def test_attention_in_chunks_takes_memory_that_grows_with_the_patches_and_not_their_square() -> None:
    def growth(attention: Any) -> float:
        """How many times the memory of a step grows with four times the patches."""

        def memory(side: int) -> int:
            config = vitrail.ViTConfig(
                image_size=(side, side),
                patch_size=(4, 4),
                size=vitrail.EncoderSize(depth=2, **SIZE),
                head="none",
            )
            model = eqx.filter_eval_shape(config.build, key=jax.random.key(0))
            model = model.with_execution(vitrail.Execution(attention=attention))
            images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
            return compiled(train, model, images).memory_analysis().temp_size_in_bytes

        return memory(256) / memory(128)

    assert growth(32) < 5
    assert growth("plain") > 8


def test_a_shape_is_compiled_once() -> None:
    traced: list[int] = []

    class Counting(vitrail.AbstractPool):
        """Counts how often it is traced."""

        out_dim: int = eqx.field(static=True)
        needs_class_token: ClassVar[bool] = False
        order_invariant: ClassVar[bool] = True

        def __init__(self, dim: int, *, key: Any):
            self.out_dim = dim

        def __call__(self, tokens: vitrail.Tokens, *, key: Any = None) -> Any:
            traced.append(len(tokens.patches))
            return tokens.patches.mean(axis=0)

    model = small_model(pool=Counting)
    traced.clear()
    classify = vitrail.compile(model)
    for seed in range(3):
        classify(random_array(2, 8, 12, 3, seed=seed))
        eqx.filter_jit(forward)(model, random_array(2, 8, 12, 3, seed=seed))
    assert len(traced) == 2
    classify(random_array(3, 8, 12, 3))
    assert len(traced) == 3


@pytest.mark.parametrize("name", ["Ti/16", "S/16", "B/16"])
def test_the_operations_that_xla_counts_are_those_of_the_formula(name: str) -> None:
    encoder = vitrail.EncoderOptions(activation="relu")  # as XLA counts many operations for an exp or erf
    model = eqx.filter_eval_shape(
        lambda key: vitrail.vit(name, num_classes=1000, encoder=encoder, key=key), jax.random.key(0)
    )
    model = model.with_execution(vitrail.Execution(scan=False))
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    counted = lowered(forward, model, image).cost_analysis()["flops"]
    case = cases.Case("forward", name[:-3], 1)  # pyright: ignore
    assert case.flops == vitrail.model_card(model).flops + 2 * model.config.size.dim * 1000
    assert abs(counted / case.flops - 1) < 0.02


# vitrail.compile --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"pool": "cls_mean"},
        {"pool": "cls_mean", "execution": UNROLLED},
        {
            "position": "rope",
            "encoder": vitrail.EncoderOptions(qk_norm=True, layer_scale=0.1, pre_norm=True),
            "execution": UNROLLED,
        },
        {"windows": vitrail.WindowOptions(2, (1,), (2, 3)), "execution": UNROLLED},
    ],
    ids=str,
)
def test_compile_gives_what_vmap_gives(changes: dict[str, Any]) -> None:
    model = small_model(**changes)
    images = random_array(3, 8, 12, 3)
    classify = vitrail.compile(model)
    assert_close(classify(images), jax.vmap(model)(images))
    assert_close(classify(np.asarray(images)), jax.vmap(model)(images))


def test_compile_takes_no_array_out_of_a_stack_for_a_straight_line_of_blocks() -> None:
    def moved(program: Any) -> list[str]:
        """What makes or reads arrays with an axis over depth."""
        return [line for line in instructions(program) if "concatenate(" in line or re.search(r"f32\[9,\d", line)]

    model = model_of(9, scan=False)
    built = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype) if hasattr(leaf, "shape") else leaf, model)
    classify = vitrail.compile(built)
    assert not moved(classify._run.lower(classify._arrays, jnp.zeros(IMAGES.shape)).compile())
    assert moved(compiled(forward, model))


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (
            np.zeros((8, 12, 3), np.float32),
            r"shape \(batch, height, width, channels\), got \(8, 12, 3\): .* images\[None\]",
        ),
        (np.zeros((1, 8, 12, 4), np.float32), r"3 channels, got shape \(8, 12, 4\)"),
        (np.zeros((1, 8, 12, 3), np.uint8), "got dtype uint8"),
    ],
)
def test_compile_says_what_is_wrong_with_images(images: np.ndarray, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        vitrail.compile(small_model())(images)


def test_compile_does_less_in_python_at_each_call_than_filter_jit() -> None:
    model = small_model()
    images, calls = image_for(model)[None], list[str]()
    jitted, classify = eqx.filter_jit(forward), vitrail.compile(model)

    def count(function: Callable[[], Any]) -> int:
        function()
        calls.clear()
        sys.setprofile(lambda frame, event, argument: calls.append(event))
        try:
            function()
        finally:
            sys.setprofile(None)
        return calls.count("call")

    assert 2 * count(lambda: classify(images)) <= count(lambda: jitted(model, images))


# Importing --------------------------------------------------------------------------------------------------------


def test_importing_leaves_for_later_what_few_need_and_writes_no_check() -> None:
    program = (
        "import sys, vitrail\n"
        "later = ('vitrail.weights', 'vitrail.lab', 'vitrail.train', 'einops', 'beartype._decor.decormain')\n"
        "print([name for name in later if name in sys.modules])\n"
        "assert vitrail.weights.load is vitrail.load and vitrail.lab and {'load', 'lab', 'weights'} <= {*dir(vitrail)}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


# The benchmark ----------------------------------------------------------------------------------------------------


def test_the_weights_that_contenders_get_are_those_of_timm() -> None:
    case = cases.Case("forward", "Ti", 1, depth=2)
    model = vitrail.vit("Ti/16", num_classes=1000, key=jax.random.key(0))
    assert sum(array.size for array in cases.weights(cases.Case("forward", "Ti", 1)).values()) == sum(
        leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array))
    )
    assert set(cases.block_weights(cases.weights(case), 1)) == {
        f"{name}.{kind}"
        for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    }


class FakeContender:
    """Answers as a worker does, with numbers that are known."""

    def __init__(self, name: str, seconds: list[float], logits: list[list[float]], asked: list[str]):
        self.name, self.seconds, self.logits, self.asked = name, seconds, logits, asked

    def ask(self, what: str, *arguments: Any) -> Any:
        if what == "turn":
            self.asked.append(self.name)
            return self.seconds[self.asked.count(self.name) - 1]
        return {"prepare": {"whole": 2.0}, "logits": self.logits, "drop": None}[what]


def fakes(**others: list[list[float]]) -> list[Any]:
    asked: list[str] = []
    ours = FakeContender(benchmark.OURS, [1.0, 2.0, 3.0, 4.0, 5.0], [[1.0, -4.0]], asked)
    seconds = {"fast": [0.5, 1.0, 6.0, 2.0, 2.5], "slow": [2.0, 4.0, 6.0, 8.0, 10.0]}
    return [ours, *(FakeContender(name, seconds[name], logits, asked) for name, logits in others.items())]


def test_the_ratio_of_the_benchmark_is_our_time_by_theirs_of_the_same_round() -> None:
    contenders = fakes(fast=[[]], slow=[[]])
    entry = benchmark.take_turns(contenders, cases.Case("forward", "Ti", 1), 0.0)
    assert entry["rounds"] == 5
    assert entry["ratio"]["slow"] == {"low": 0.5, "median": 0.5, "high": 0.5}
    assert entry["ratio"]["fast"] == {"low": 2.0, "median": 2.0, "high": 2.0}  # one pair of five is 0.5
    assert entry["seconds"]["slow"] == {"low": 4.0, "median": 6.0, "high": 8.0}
    assert report.fastest(entry) == "fast"
    first, second = contenders[0].asked[:3], contenders[0].asked[3:6]
    assert first == [benchmark.OURS, "fast", "slow"]
    assert second == ["fast", "slow", benchmark.OURS]


@pytest.mark.parametrize("wrong", [4.0001, float("nan"), float("inf")])
def test_contenders_that_do_not_compute_the_same_are_not_timed(wrong: float) -> None:
    assert benchmark.compare_outputs(fakes(fast=[[1.0, -4.00002]]))["fast"] == pytest.approx(5e-6)  # of 4
    with pytest.raises(SystemExit, match=r"these contenders do not compute what vitrail does.*'fast'"):
        benchmark.compare_outputs(fakes(fast=[[1.0, -wrong]]))


def test_the_operations_of_a_training_step_are_those_of_its_products() -> None:
    # Each product of the forward pass has two in the backward pass; that of the patches, one.
    case = cases.Case("train", "Ti", 2, depth=1)
    n, d = 196, 192
    patches, scores, head = n * 768 * d, n * n * d, d * 1000
    block = n * d * (3 * d + d + 4 * d + 4 * d) + 2 * scores
    assert case.flops == 2 * 2 * (2 * patches + 3 * block + 3 * head)


def test_the_run_that_the_docs_show_can_be_reported() -> None:
    result = json.loads((Path(__file__).parent.parent / "docs" / "assets" / "benchmark.json").read_text())
    written = report.markdown(result)
    for entry in result["timed"]:
        assert f"| {entry['case']['name']} |" in written
    widest = max(line.count("|") - 1 for line in written.splitlines())
    assert widest == 6  # columns, which fit a page beside its contents


def timed(*ratios: tuple[float, float, float]) -> dict[str, Any]:
    """A result of such quartiles beside one contender, and of faster ones beside another."""
    fast = [dict(zip(("low", "median", "high"), ratio, strict=True)) for ratio in ratios]
    slow = {name: 0.5 * value for name, value in fast[0].items()}
    case = {"mode": "forward", "name": "forward Ti/16, batch 1"}
    return {"timed": [{"case": case, "ratio": {"timm_vit": slow, "flax_nnx": each}} for each in fast]}


def test_the_chart_draws_the_ratios_to_the_fastest_contender() -> None:
    ratios = [(0.8, 0.9, 0.95), (0.9, 0.95, 1.01), (1.02, 1.1, 1.3)]
    (axes,) = chart.make_figure(timed(*ratios)).axes
    lines, points = [[line for line in axes.get_lines()[1:] if len(line.get_xdata()) == number] for number in (2, 1)]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in lines] == [
        (0.8, 0.95, 0, 0),
        (0.9, 1.01, 1, 1),
        (1.02, 1.3, 2, 2),
    ]
    assert [point.get_xdata()[0] for point in points] == [0.9, 0.95, 1.1]
    assert [line.get_color() for line in lines] == [chart.RIGHT, chart.INK, chart.WRONG]
    assert [label.get_text() for label in axes.child_axes[0].get_yticklabels()] == 3 * ["Flax NNX"]
    assert report.count(timed(*ratios, ratios[0]), "forward") == (
        "4 forward passes: vitrail is faster than the fastest other library in 2, as fast in 1, and slower in 1."
    )


def test_a_run_on_a_gpu_is_told_in_tflops_and_has_cases_that_fill_it() -> None:
    assert all(
        case.batch >= 64 and case.size == "B" for case in cases.timed(quick=True, dtype="bfloat16", fill=True)[1:]
    )
    assert len(cases.timed(quick=False, dtype="bfloat16", fill=True)) == 2 + len(
        cases.timed(quick=False, dtype="float32", fill=False)
    )
    result = json.loads((Path(__file__).parent.parent / "docs" / "assets" / "benchmark-gpu.json").read_text())
    entry = result["timed"][-1]
    rate = entry["case"]["flops"] / entry["seconds"][benchmark.OURS]["median"] / 1e12
    assert f"| {rate:.1f} | " in report.times(result)
    assert "TFLOP/s" in report.times(result)
    assert "GFLOP/s" not in report.times(result)
    assert ", NVIDIA" in report.head(result)
