"""pyright on typical user code, on mistakes, and on the package's own types.

Run with the rest, or alone with `pytest -m pyright`.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent

pytestmark = [
    pytest.mark.pyright,
    pytest.mark.skipif(
        importlib.util.find_spec("pyright") is None,
        reason="pyright is not installed: pip install '.[dev]' for the checks of types",
    ),
]


def pyright(*arguments: str) -> Any:
    """pyright's report. It finds vitrail by the Python that is first on the path: the one of these tests."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {"PATH": path, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", *arguments],
        env=environment,
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.lstrip().startswith("{"), done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def reports() -> dict[str, list[Any]]:
    """What pyright says of the two files, by their names, in the strict mode of pyproject.toml."""
    files = ["typed_user_code.py", "typed_mistakes.py"]
    report = pyright(*(str(TESTS / file) for file in files))
    assert report["summary"]["filesAnalyzed"] == 2
    found: dict[str, list[Any]] = {file: [] for file in files}
    for diagnostic in report["generalDiagnostics"]:
        found[Path(diagnostic["file"]).name].append(diagnostic)
    return found


def test_typical_user_code_passes_in_strict_mode(reports: dict[str, list[Any]]) -> None:
    found = [(d["range"]["start"]["line"] + 1, d["message"]) for d in reports["typed_user_code.py"]]
    assert found == []


def test_every_mistake_is_reported_and_nothing_else(reports: dict[str, list[Any]]) -> None:
    lines = (TESTS / "typed_mistakes.py").read_text().splitlines()
    marks = {i: m[1] for i, line in enumerate(lines, 1) if (m := re.search(r"# expect: (.*)$", line))}
    expected = {(line, rule) for line, rules in marks.items() for rule in rules.split(", ")}
    found = {
        (d["range"]["start"]["line"] + 1, d["rule"])
        for d in reports["typed_mistakes.py"]
        if d.get("rule") != "reportUnusedExpression"
    }
    assert len(expected) > 45
    assert expected - found == set(), "mistakes that pyright does not report"
    assert found - expected == set(), "reports that no mark expects"


def test_all_types_of_the_package_are_known() -> None:
    report = pyright("--verifytypes", "vitrail", "--ignoreexternal")
    completeness = report["typeCompleteness"]
    incomplete = [s["name"] for s in completeness["symbols"] if s["isExported"] and not s["isTypeKnown"]]
    assert incomplete == []
    assert completeness["completenessScore"] == 1
    assert completeness["exportedSymbolCounts"]["withKnownType"] > 100
