"""The benchmark: all contenders in one interleaved session. `make bench` and `make bench-quick` call it.

Run it with the Python that has vitrail and the peers on JAX. Each contender is a process in the environment that its
libraries are installed in; they wait while one of them runs, and take turns, A B C, B C A, C A B. Each ratio is of two
times of one round, so that the drift of a noisy machine falls out of it.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case, timed
from report import NAMES, OURS, markdown
from worker import TORCH

HERE = Path(__file__).parent
JAX = tuple(name for name in NAMES if name not in (OURS, *TORCH))
EQUAL = 1e-5
"""How far the logits of two contenders with the same weights may be apart, as a part of the largest."""
PATIENCE = 240
"""Seconds that a first call may take."""
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"} | {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false"  # several share a GPU
}


class Contender:
    """A worker process, and what it is asked."""

    def __init__(self, name: str, python: Path):
        self.name, self.python = name, python
        self.process = subprocess.Popen(
            [python, HERE / "worker.py", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )

    def ask(self, what: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"do": what, "with": arguments}), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} ended while it was asked to {what} {arguments}: its error stands above")
        return json.loads(answer)

    def once(self, case: Case) -> dict[str, float] | None:
        """The same contender's first call, in a process of its own that finds nothing compiled before; `None` where
        that runs out of memory, or of patience."""
        command = [self.python, HERE / "worker.py", self.name, "--once", json.dumps(case.asdict())]
        with tempfile.TemporaryDirectory() as cache:
            environment = ENVIRONMENT | {"TORCHINDUCTOR_CACHE_DIR": cache}
            try:
                done = subprocess.run(
                    command, stdout=subprocess.PIPE, check=True, text=True, env=environment, timeout=PATIENCE
                )
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                print(f"{self.name}, {case.name}: {error}", file=sys.stderr)
                return None
        return json.loads(done.stdout)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def quartiles(values: list[float]) -> dict[str, float]:
    """The median and the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"low": low, "median": middle, "high": high}


def compare_outputs(contenders: list[Contender]) -> dict[str, float]:
    """How far each contender's logits are from those of vitrail with the same weights."""
    case = Case("forward", "Ti", 2).asdict()
    logits = {contender.name: np.asarray(contender.ask("logits", case)) for contender in contenders}
    largest = np.abs(logits[OURS]).max()
    found = {name: float(np.abs(theirs - logits[OURS]).max() / largest) for name, theirs in logits.items()}
    if wrong := {name: difference for name, difference in found.items() if not difference <= EQUAL}:
        raise SystemExit(f"these contenders do not compute what vitrail does, so their times mean nothing: {wrong}")
    return found


def take_turns(contenders: list[Contender], case: Case, seconds: float) -> dict[str, Any]:
    """Times a case, each contender in turn, for about so many seconds and at least five rounds. The first is ours."""
    ours = contenders[0].name
    prepared = {contender.name: contender.ask("prepare", case.asdict()) for contender in contenders}
    calls = {name: max(1, round(0.2 / found["whole"])) for name, found in prepared.items()}
    a_round = sum((1 + calls[name]) * found["whole"] for name, found in prepared.items())
    rounds = min(25, max(5, round(seconds / a_round)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds):
        first = i % len(contenders)
        for contender in (*contenders[first:], *contenders[:first]):
            times[contender.name].append(contender.ask("turn", calls[contender.name]))
    for contender in contenders:
        contender.ask("drop")
    return {
        "case": case.asdict() | {"name": case.name, "flops": case.flops},
        "rounds": rounds,
        "seconds": {name: quartiles(values) for name, values in times.items()},
        "ratio": {
            name: quartiles([a / b for a, b in zip(times[ours], values, strict=True)])
            for name, values in times.items()
            if name != ours
        },
    }


def peaks(contenders: list[Contender], dtype: str) -> dict[str, float]:
    """The rate of a large product of matrices, of the libraries that do it."""
    side = 8192 if accelerator() else 2048
    return {c.name: c.ask("peak", side, dtype) for c in contenders if c.name in (OURS, "timm_vit")}


def first_calls(contenders: list[Contender], cases: list[Case], times: int) -> list[dict[str, Any]]:
    """What a first call takes, in fresh processes, the contenders in turn."""
    found: list[dict[str, Any]] = []
    for case in cases:
        runs: dict[str, list[dict[str, float]]] = {contender.name: [] for contender in contenders}
        for _ in range(times):
            for contender in contenders:
                if run := contender.once(case):
                    runs[contender.name].append(run)
        medians = {
            name: {what: statistics.median(run[what] for run in several) for what in several[0]} if several else None
            for name, several in runs.items()
        }
        found.append({"case": case.asdict() | {"name": case.name}, "times": times, "contenders": medians})
    return found


def imports(python: Path, times: int) -> dict[str, Any]:
    """Seconds of `import equinox`, and what `import vitrail` adds to it, in fresh processes, in turn."""

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def seconds(module: str) -> float:
        started = time.perf_counter()
        subprocess.run([python, "-c", f"import {module}"], check=True, env=environment)
        return time.perf_counter() - started

    pairs = [(seconds("equinox"), seconds("vitrail")) for _ in range(times + 1)][1:]  # the first writes the bytecode
    return {
        "equinox": quartiles([equinox for equinox, _ in pairs]),
        "added": quartiles([ours - equinox for equinox, ours in pairs]),
    }


@functools.cache
def accelerator() -> str | None:
    """The name of a GPU of NVIDIA's, where there is one."""
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()[0]
    except (FileNotFoundError, subprocess.CalledProcessError, IndexError):
        return None


def machine() -> dict[str, Any]:
    """What it runs on."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "accelerator": accelerator(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", type=Path, help="the Python that has the peers on PyTorch; without it they are out")
    parser.add_argument("--out", type=Path, required=True, help="where to: PATH.json and PATH.md are written")
    parser.add_argument("--quick", action="store_true", help="three cases, about six minutes")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="float32, or bfloat16 where there is a GPU")
    given = parser.parse_args()
    dtype = given.dtype or ("bfloat16" if accelerator() else "float32")
    started = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - started:5.0f} s] {what}", file=sys.stderr, flush=True)

    own = Path(sys.executable)
    pythons = dict.fromkeys((OURS, *JAX), own) | ({name: given.torch for name in TORCH if given.torch})
    if find_spec("equimo") is None:
        say("equimo, which needs Python 3.12, is not installed and is left out")
        del pythons["equimo_vit"]
    contenders = [Contender(name, python) for name, python in pythons.items()]

    say("do all contenders compute the same?")
    devices = {contender.name: contender.ask("device") for contender in contenders}
    if len(set(devices.values())) > 1:
        raise SystemExit(f"all contenders must run on the same kind of device, but these were found: {devices}")
    result: dict[str, Any] = {
        "day": date.today().isoformat(),
        "machine": machine(),
        "dtype": dtype,
        "versions": {c.name: c.ask("versions") for c in contenders},
        "python": {c.name: c.ask("python") for c in contenders},
        "differences": compare_outputs(contenders),
        "peak": [peaks(contenders, dtype)],
        "timed": [],
    }

    def save() -> None:
        result["minutes"] = (time.monotonic() - started) / 60
        Path(f"{given.out}.json").write_text(json.dumps(result, indent=1) + "\n")

    for case in timed(given.quick, dtype, fill=accelerator() is not None):
        say(case.name)
        result["timed"].append(take_turns(contenders, case, 20 if given.quick else 30))
        save()
    result["peak"].append(peaks(contenders, dtype))
    jax_contenders = [c for c in contenders if c.name in (OURS, *JAX)]
    for contender in contenders:
        contender.close()

    say("first calls and memory")
    step = Case("train", "Ti", 8, dtype=dtype)
    firsts = [step] if given.quick else [Case("forward", "Ti", 1, dtype=dtype), step]
    result["first"] = first_calls(contenders, firsts, 1 if given.quick else 2)
    save()
    if not given.quick:
        say("compile time by depth")
        deep = [Case("train", "Ti", 8, depth=depth, dtype=dtype) for depth in (6, 12, 24, 48)]
        result["depth"] = first_calls(jax_contenders, deep, 1)
        save()
    say("import")
    result["import"] = imports(own, 3 if given.quick else 11)
    save()
    written = markdown(result)
    Path(f"{given.out}.md").write_text(written)
    print(written)


if __name__ == "__main__":
    main()
