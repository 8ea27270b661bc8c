"""Writes what the originals give to `tests/fixtures`, for those who have no PyTorch.

Run it in the environment of `make test-oracles`: `.venv-oracles/bin/python tests/oracles/make_fixtures.py`.
"""

import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from checkpoint_cases import case_arrays, case_to_json, image_of
from checkpoint_oracle import BEIT_CASES, CASES, NATIVE_CASES, RECENT_CASES, ROPE_CASES, SIZES
from resample_oracle import resampled
from system_cases import write_cases
from timm_oracle import cases
from tokenizer_oracle import freeze_tokenizers

FIXTURES = Path(__file__).parent.parent / "fixtures"
FROZEN_BEIT = {
    name: BEIT_CASES[name]
    for name in (
        "timm beit_base_patch16_224",
        "timm beitv2_large_patch16_224",
        "transformers BeitModel",
        "transformers BeitForImageClassification",
        "transformers Data2VecVisionForImageClassification",
        "transformers BeitForMaskedImageModeling, in memory",
    )
}
"""One of each layout and of each position."""

if __name__ == "__main__":
    pools = {f"{case}/{name}": array for case, named in cases(0).items() for name, array in named.items()}
    np.savez_compressed(FIXTURES / "timm_pools.npz", allow_pickle=False, **pools)
    native, _, other = ((size, image_of(size)) for size in SIZES)
    tables = {
        "checkpoints": CASES,
        "native": NATIVE_CASES,
        "rope": ROPE_CASES,
        "beit": FROZEN_BEIT,
        "recent": RECENT_CASES,
    }
    for stem, cases_of in tables.items():
        made = {
            name: make(dict([native] if "in memory" in name else [native, other])) for name, make in cases_of.items()
        }
        arrays = {f"{name}/{key}": array for name, case in made.items() for key, array in case_arrays(case).items()}
        np.savez_compressed(FIXTURES / f"{stem}.npz", allow_pickle=False, **arrays)
        kept = {name: case_to_json(case) for name, case in made.items()}
        (FIXTURES / f"{stem}.json").write_text(json.dumps(kept, separators=(",", ":")))
    np.savez_compressed(FIXTURES / "resampled.npz", allow_pickle=False, **resampled())
    for path in Path(__file__).parent.glob("systems_*.py"):
        family = importlib.import_module(path.stem)
        cases_of_it = {name: make(image_of(family.SIZE)) for name, make in family.CASES.items()}
        write_cases(path.stem.removeprefix("systems_"), cases_of_it)
    freeze_tokenizers(FIXTURES)
