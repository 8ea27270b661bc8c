"""Ends runs at random moments, and looks whether each still ends as one that was left alone.

By hand: `python tests/kill_runs.py --times 20 --kinds classify mae --signal SIGTERM`; by default all kinds by SIGKILL.
The suite ends each kind once: test_train_run.py.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from helpers import parameters
from test_train_run import RECIPES, fit, fit_whole, read_metrics

import vitrail

_PROGRAM = """if True:
    import sys, time
    sys.path.insert(0, {tests!r})
    import test_train_run as t

    def slow(progress):  # so that most of the time is that of steps and files, and not of the start
        print(progress.step, flush=True)
        time.sleep(0.05)

    t.fit(t.Path({folder!r}), {kind!r}, report=slow, **{options})"""


def main(kind: str, times: int, number: int) -> None:
    """Ends runs of a kind."""
    whole = fit_whole(kind)
    options = "dict(validation=t.make_data().test)" if kind in ("classify", "probe", "lora") else "{}"
    rng, kills, ended = random.Random(0), 0, 0
    while kills < times:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "run")
            tests = str(Path(__file__).parent)
            program = _PROGRAM.format(tests=tests, folder=str(folder), kind=kind, options=options)
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
                process.send_signal(number)
                assert process.wait() in (-number, 0)
                kills += 1
                steps = sorted(p.name for p in folder.glob("checkpoints/*")) if folder.exists() else "no folder"
                print(f"{kind}, kill {kills}: {steps}", flush=True)
            model = fit(folder, kind)
            found = parameters(model)
            assert found.keys() == whole.keys()
            assert all(np.array_equal(array, whole[name]) for name, array in found.items())
            assert [line["step"] for line in read_metrics(folder)][-1] == 40
            assert not list(folder.glob(".*"))
            for path in folder.glob("*.safetensors"):
                vitrail.load(path)
            assert (folder / "last.safetensors").exists()
            ended += 1
    print(f"{kind}: {kills} times {signal.Signals(number).name}, {ended} runs, each equal to the bit to one left alone")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--kinds", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--signal", default="SIGKILL")
    given = parser.parse_args()
    for each in given.kinds:
        main(each, given.times, signal.Signals[given.signal])
