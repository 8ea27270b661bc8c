"""A training step of MAE beside the original's, in turns. Leave the machine alone:

.venv-bench-jax/bin/python tests/benchmarks/pretraining.py --torch .venv-bench-torch/bin/python --out FILE.json
"""

import argparse
import json
import sys
from datetime import date
from pathlib import Path

from cases import Case
from run import Contender, machine, take_turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", type=Path, required=True, help="the Python that has transformers")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    given = parser.parse_args()
    contenders = [Contender("vitrail_mae", Path(sys.executable)), Contender("transformers_mae", given.torch)]
    result = {
        "day": date.today().isoformat(),
        "machine": machine(),
        "versions": {contender.name: contender.ask("versions") for contender in contenders},
        "timed": [take_turns(contenders, Case("mae", size, 8), 60) for size in ("S", "B")],
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    for entry in result["timed"]:
        print(entry["case"]["name"], entry["rounds"], entry["seconds"], entry["ratio"])


if __name__ == "__main__":
    main()
