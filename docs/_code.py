"""Formats the code that pages print; not a page."""

import subprocess
import sys


def format_code(code: str) -> str:
    """A block of Python whose lines fit the page."""
    ruff = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length=80", "-"]
    done = subprocess.run(ruff, input=code, capture_output=True, text=True, check=True)
    return f"```python\n{done.stdout.strip()}\n```"
