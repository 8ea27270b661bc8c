"""Kills a run at random moments, 20 times, and looks whether it still ends as one that was left alone.

By hand: `python tests/kill_runs.py [TIMES]`. The suite kills once: test_train_run.py.
"""

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from helpers import parameters
from test_train_run import KEY, RECIPE, fit, make_data, make_model, read_metrics

import vitrail
from vitrail import train

_PROGRAM = """if True:
    import sys, time
    sys.path.insert(0, {tests!r})
    import test_train_run as t

    def slow(progress):  # so that most of the time is that of steps and files, and not of the start
        print(progress.step, flush=True)
        time.sleep(0.05)

    t.fit(t.Path({folder!r}), report=slow, validation=t.make_data().test)"""


def main(times: int) -> None:
    whole = parameters(train.fit(make_model(), make_data(), RECIPE, key=KEY))
    rng, kills, ended = random.Random(0), 0, 0
    while kills < times:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "run")
            program = _PROGRAM.format(tests=str(Path(__file__).parent), folder=str(folder))
            while True:
                process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
                assert process.stdout is not None
                if rng.random() < 0.8:  # else at any moment of the start
                    process.stdout.readline()
                    time.sleep(rng.uniform(0, 3))
                else:
                    time.sleep(rng.uniform(0, 8))
                if process.poll() is not None or kills == times:
                    assert process.wait() == 0
                    break
                process.kill()
                process.wait()
                kills += 1
                steps = sorted(p.name for p in folder.glob("checkpoints/*")) if folder.exists() else "no folder"
                print(f"kill {kills}: {steps}", flush=True)
            model = fit(folder)
            assert all(np.array_equal(array, whole[name]) for name, array in parameters(model).items())
            assert [line["step"] for line in read_metrics(folder)][-1] == 40
            assert not list(folder.glob(".*"))
            for name in ("last", "best"):
                vitrail.load(folder / f"{name}.safetensors")
            ended += 1
    print(f"{kills} kills, {ended} runs, each equal to the bit to one that was left alone")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
