"""Photographs a second of vitrail's loader and timm's, with as many workers, on the same files: `python loading.py`.

Each of 500 JPEG files of 500 x 375 pixels is decoded, scaled by bicubic interpolation, cut to 224 x 224 and normalised.
The two take turns. The time of the processor, of all workers together, depends less on what else the machine does."""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from worker import let_torchvision_be_imported

TICKS = os.sysconf("SC_CLK_TCK")
BATCH, EPOCHS = 50, 2


def write_photographs(folder: Path, number: int) -> None:
    """Windows of four photographs of scikit-image."""
    import skimage.data
    from PIL import Image

    photographs = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()]
    rng = np.random.default_rng(0)
    for i in range(number):
        whole = Image.fromarray(photographs[i % 4])
        wide = int(rng.uniform(0.6, 1) * min(whole.width, whole.height * 4 / 3))
        high = wide * 3 // 4
        left, top = rng.integers(0, (whole.width - wide + 1, whole.height - high + 1))
        path = folder / f"class {i % 5}" / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        window = whole.crop((left, top, left + wide, top + high))
        window.resize((500, 375), Image.Resampling.LANCZOS).save(path, quality=90)


def measure_processor() -> float:
    """Seconds of the processor that this process and its children have taken."""
    total = time.process_time()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[1]) == os.getpid():
            total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def time_batches(batches: Iterable[Any]) -> tuple[float, float]:
    """Images a second, and milliseconds of the processor for each."""
    processor, started = measure_processor(), time.perf_counter()
    number = sum(len(batch) for batch in batches)
    return number / (time.perf_counter() - started), 1000 * (measure_processor() - processor) / number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=7)
    times = parser.parse_args().times
    let_torchvision_be_imported()
    import torch
    from timm.data import create_dataset, create_loader

    from vitrail import images
    from vitrail._files import count_cores
    from vitrail.train import make_batches

    with tempfile.TemporaryDirectory() as root:
        write_photographs(Path(root), 500)
        preprocess = images.Preprocess("cover", "bicubic", *images.IMAGENET, crop=0.875)
        names = sorted(str(path.relative_to(root)) for path in Path(root).rglob("*.jpg"))
        train = images.Pictures(root, names, (224, 224), preprocess)
        options: dict[str, Any] = {"crop_pct": 0.875, "interpolation": "bicubic", "device": torch.device("cpu")}
        theirs = create_loader(
            create_dataset("", root=root),
            (3, 224, 224),
            BATCH,
            num_workers=count_cores(),
            persistent_workers=True,
            **options,
        )

        def load_ours() -> Iterable[Any]:
            _, batches = make_batches(train.__getitem__, len(train), epochs=EPOCHS, batch_size=BATCH, seed=0)
            return map(preprocess.normalise, batches)

        def load_theirs() -> Iterable[Any]:
            return (batch for _ in range(EPOCHS) for batch, _ in theirs)

        found: list[list[tuple[float, float]]] = []
        for number in range(times + 1):
            pair = [time_batches(load()) for load in (load_theirs, load_ours)]
            if number > 0:  # the first time starts the workers
                found.append(pair)
                print(
                    *(f"{speed:.0f} images/s, {spent:.2f} ms;" for speed, spent in pair), f"load {os.getloadavg()[0]}"
                )
    for place, name in enumerate(("images/s", "ms of the processor")):
        timm, ours = (statistics.median(pair[which][place] for pair in found) for which in (0, 1))
        print(f"{name}: timm {timm:.4g}, vitrail {ours:.4g}, ratio {ours / timm:.3f}")


if __name__ == "__main__":
    main()
