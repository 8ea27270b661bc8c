"""What the commands of training reach: the tables on the page "Results", measured again.

`python tests/train_results.py WORK` runs every command for three seeds, one after the other, in folders of WORK, and
writes docs/assets/train-results.csv after each. It goes on where it was interrupted. It needs Fashion-MNIST in the
folder `FASHION`, as Debian's package `dataset-fashion-mnist` installs it, and the digits of the extra `demo`.
"""

import argparse
import csv
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vitrail import images

FASHION = "/usr/share/datasets/fashion-mnist"
TABLE = Path(__file__).parents[1] / "docs" / "assets" / "train-results.csv"
COLUMNS = ("step", "seed", "measure", "accuracy", "seconds", "command")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEXTS = ("a photo of the digit {}", "a handwritten {}", "the number {}")
MAE, DINO = "--model mae/last.safetensors", "--model dino/last.safetensors"
FEW_RUN = "--data few --epochs 20"
TEN_RUN = "--data ten --epochs 200"
DIGITS = "--epochs 6"
ADAPT = "--learning-rate 1e-3 --recipe demo"
STEPS = {
    "mae": f'--data {FASHION} --objective "mae(decoder_dim=64,decoder_depth=2,decoder_heads=4)" --epochs 3 '
    "--batch-size 256 --learning-rate 2e-3",
    "random-probe": f"--data {FASHION} --recipe probe --epochs 1",
    "mae-probe": f"--data {FASHION} {MAE} --recipe probe --epochs 1",
    "few-scratch": FEW_RUN,
    "few-mae-whole": f"{FEW_RUN} {MAE} {ADAPT}",
    "few-mae-whole-fast": f"{FEW_RUN} {MAE} --learning-rate 3e-3 --recipe demo",
    "few-mae-preset": f"{FEW_RUN} {MAE} --recipe finetune",
    "few-mae-preset-rate": f"{FEW_RUN} {MAE} --recipe finetune --learning-rate 4e-3",
    "few-mae-probe": f"{FEW_RUN} {MAE} --recipe probe",
    "few-mae-lora": f"{FEW_RUN} {MAE} --recipe demo --learning-rate 5e-3 --lora 8 "
    "--lora-targets q v project hidden out",
    "clip": '--data pairs --recipe clip --objective "clip(embed_dim=64,context=32,text_depth=2)" --epochs 10 '
    "--batch-size 64 --learning-rate 1e-3 --warmup 0.1",
    "dino": f'--data {FASHION} --objective "dino(prototypes=256,hidden_dim=256,bottleneck_dim=64,small_crops=2,'
    'koleo=0.1,momentum=0.99)" --epochs 1 --learning-rate 1e-3 --clip-norm 3',
    "digits": DIGITS,
    "digits-average": f"{DIGITS} --average 0.99",
    "digits-constant": f"{DIGITS} --schedule constant",
    "digits-constant-average": f"{DIGITS} --schedule constant --average 0.99",
    "few-mae-preset-plain": f"{FEW_RUN} {MAE} --recipe finetune --learning-rate 4e-3 --objective classify --transforms",
    "few-dino-whole": f"{FEW_RUN} {DINO} {ADAPT}",
    "few-dino-probe": f"{FEW_RUN} {DINO} --recipe probe",
    "dino-probe": f"--data {FASHION} {DINO} --recipe probe --epochs 1",
    "few-random-probe": f"{FEW_RUN} --recipe probe",
    "ten-mae-preset": f"--data ten {MAE} --recipe finetune",
    "ten-mae-whole": f"{TEN_RUN} {MAE} {ADAPT}",
    "supervised": f"--data {FASHION} --epochs 3 --batch-size 256 --learning-rate 2e-3",
}
"""What follows `vitrail train` in each step, and the name of its run."""


def list_commands() -> Iterator[tuple[str, str]]:
    """Each step and its command."""
    for name, options in STEPS.items():
        yield name, f"vitrail train {options} --out {name}"
        if name in ("mae", "dino"):
            yield f"{name}-knn", f"vitrail evaluate {name}"
        if name in ("supervised", "random-probe"):
            yield (
                f"{name.partition('-')[0]}-knn",
                f"vitrail knn {name}/last.safetensors --data {FASHION} --neighbours 20",
            )
        if name == "clip":
            yield "clip-zero-shot", 'vitrail evaluate clip --data digits --templates "a photo of the digit {}"'


# Data ---------------------------------------------------------------------------------------------------------------


def write_few(folder: Path, number: int, seed: int) -> None:
    """Fashion-MNIST with this number of training images of each class, drawn at random."""
    folder.mkdir()
    data = images.load_images(FASHION)
    random = np.random.default_rng(seed)
    classes = (np.flatnonzero(data.train.labels == label) for label in range(10))
    chosen = np.concatenate([random.choice(places, number, replace=False) for places in classes])
    labels, pixels = data.train.labels[chosen].astype(np.uint8), data.train.images[chosen]
    heads = {
        "labels-idx1": struct.pack(">II", 0x801, len(labels)),
        "images-idx3": struct.pack(">IIII", 0x803, len(labels), 28, 28),
    }
    for kind, array in (("labels-idx1", labels), ("images-idx3", pixels)):
        (folder / f"train-{kind}-ubyte").write_bytes(heads[kind] + array.tobytes())
        shutil.copy(Path(FASHION, f"t10k-{kind}-ubyte.gz"), folder)


def write_digits(pairs: Path, digits: Path, seed: int) -> None:
    """Digits of MNIST twice: with a text for each picture, and in a folder for each class."""
    data, random = images.load_mnist(seed=seed), np.random.default_rng(seed)
    for part, examples in (("train", data.train), ("val", data.test)):
        (pairs / part).mkdir(parents=True)
        lines = ["file,text"]
        for number, (pixels, label) in enumerate(zip(examples.images[:, :, :, 0], examples.labels, strict=True)):
            (digits / part / WORDS[label]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(digits / part / WORDS[label] / f"{number}.png")
            Image.fromarray(pixels).save(pairs / part / f"{number}.png")
            lines.append(f"{number}.png,{random.choice(TEXTS).format(WORDS[label])}")
        (pairs / part / "captions.csv").write_text("\n".join(lines))


# Running ------------------------------------------------------------------------------------------------------------


def run(command: str, folder: Path) -> tuple[str, float | None, float]:
    """Runs a command in a folder.

    **Returns:**

    What it measured, the accuracy, and the seconds of processor time.
    """
    words = shlex.split(command)
    with (folder / "log.txt").open("a+") as log:
        log.write(f"$ {command}\n")
        log.flush()
        start = log.tell()
        process = subprocess.Popen([sys.executable, "-m", *words], cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        log.seek(start)
        printed = log.read()
    if status:
        raise SystemExit(f"{command} failed in {folder}:\n{printed}")
    return *read_accuracy(printed), usage.ru_utime + usage.ru_stime


def read_accuracy(printed: str) -> tuple[str, float | None]:
    """What a command printed of an accuracy."""
    if found := re.findall(r"test ([\w-]* ?)accuracy.*?: [\d.]+% \(([\d,]+) of ([\d,]+)", printed):
        kind, right, number = found[-1]
        return kind.strip(), int(right.replace(",", "")) / int(number.replace(",", ""))
    if found := re.search(r"^ +20 +([\d.]+)%", printed, re.MULTILINE):
        return "k-NN", float(found[1]) / 100
    return "", None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    rows = list(csv.DictReader(TABLE.open())) if TABLE.exists() else []
    done = {(row["step"], int(row["seed"])) for row in rows}
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str((given.work / "programs").resolve())
    for seed in range(given.seeds):
        folder = given.work.resolve() / f"seed-{seed}"
        if not folder.exists():
            folder.mkdir(parents=True)
            write_few(folder / "few", 100, seed)
            write_few(folder / "ten", 10, seed)
            write_digits(folder / "pairs", folder / "digits", seed)
        for step, command in list_commands():
            if (step, seed) in done:
                continue
            shutil.rmtree(folder / step, ignore_errors=True)  # of an interrupted run, whose seconds are not known
            seeded = command.replace("train ", f"train --seed {seed} ", 1)
            measure, accuracy, seconds = run(seeded, folder)
            value = "" if accuracy is None else f"{accuracy:.4f}"
            print(step, seed, measure, value, f"{seconds:.0f} s", flush=True)
            rows.append(dict(zip(COLUMNS, (step, str(seed), measure, value, f"{seconds:.0f}", command), strict=True)))
            with TABLE.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)


if __name__ == "__main__":
    main()
