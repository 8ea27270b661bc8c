"""Tar files that webdataset writes, and what it reads of them."""

import gc
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail import images

webdataset = pytest.importorskip("webdataset")


def test_shards_are_read_as_webdataset_reads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with webdataset.ShardWriter(f"{tmp_path}/%04d.tar", maxcount=7, verbose=0) as writer:
        for i in range(20):
            image = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            key = f"folder {i % 3}/{i:05d}" if i % 2 else f"{'deep/' * 30}é{i}"
            writer.write({"__key__": key, "png": image, "cls": i % 4, "txt": f"text {i}", "npy": image, "a.png": image})
    data = images.load_images(tmp_path, image_size=(12, 16), lazy=True)
    ours = {}
    for part in (data.train, data.test):
        assert isinstance(part.images, images.Pictures)
        assert part.texts is not None
        for name, *values in zip(part.images.names, part.images[:], part.labels, part.texts, strict=True):
            ours[name.decode().partition(".tar/")[2].removesuffix(".png")] = values
    urls = sorted(map(str, tmp_path.glob("*.tar")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves files open
        samples = list(webdataset.WebDataset(urls, shardshuffle=False))
        gc.collect()
    assert len(samples) == len(ours) == 20
    for sample in samples:
        pixels, label, text = ours[sample["__key__"]]
        assert np.array_equal(pixels, Image.open(io.BytesIO(sample["png"])))
        assert (str(label), text) == (sample["cls"].decode(), sample["txt"].decode())
