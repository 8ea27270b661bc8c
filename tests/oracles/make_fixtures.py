"""Writes `tests/fixtures/timm_pools.npz`: what timm's pools give, for those who have no PyTorch.

Run it in the environment of `make test-oracles`: `.venv-oracles/bin/python tests/oracles/make_fixtures.py`.
"""

from pathlib import Path

import numpy as np
from timm_oracle import cases

if __name__ == "__main__":
    arrays = {f"{case}/{name}": array for case, named in cases(0).items() for name, array in named.items()}
    np.savez_compressed(Path(__file__).parent.parent / "fixtures" / "timm_pools.npz", allow_pickle=False, **arrays)
