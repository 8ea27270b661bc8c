"""Builds small projects and puts them where Python finds them: what an installer does with a wheel.

Nothing is mocked: hatchling builds a wheel with its entry points, and unzipping it is installing it.
"""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

from hatchling.build import build_wheel

POOL = '''
from typing import ClassVar, final
import equinox as eqx
import jax.numpy as jnp
from vitrail import AbstractPool

@final
class Pool(AbstractPool):
    """The largest patch token, doubled."""
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True
    factor: float = eqx.field(static=True)

    def __init__(self, dim, *, factor=2.0, key=None):
        self.out_dim = dim
        self.factor = factor

    def __call__(self, tokens, *, key=None):
        mask = tokens.mask
        patches = tokens.patches if mask is None else jnp.where(mask[:, None], tokens.patches, -jnp.inf)
        return patches.max(axis=0) * self.factor
'''
"""The source of a pool that fits."""


def install(
    folder: Path,
    name: str,
    *,
    source: str = POOL,
    version: str = "1.2",
    parts: Mapping[str, str],
    kind: str = "pools",
    group: str | None = None,
) -> Path:
    """Builds the distribution `name`, of one module of that name, and installs it.

    **Arguments:**

    - `folder`: an empty temporary folder.
    - `name`: of the distribution and its module.
    - `source`: of the module.
    - `version`: of the distribution.
    - `parts`: the entry points: the part's name, and the object in the module that it stands for.
    - `kind`: the end of the entry-point group.
    - `group`: the whole entry-point group; `None` for the one of vitrail for that kind.

    **Returns:**

    The folder to put on `sys.path`.
    """
    project = folder / f"{name}-project"
    project.mkdir(parents=True)
    (project / f"{name}.py").write_text(source)
    points = "".join(f'"{part}" = "{name}:{target}"\n' for part, target in parts.items())
    (project / "pyproject.toml").write_text(
        f'[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\n'
        f'[project.entry-points."{group or "vitrail." + kind}"]\n{points}'
        f'[tool.hatch.build.targets.wheel]\ninclude = ["{name}.py"]\n'
    )
    return install_project(project, folder)


def install_project(project: Path, folder: Path) -> Path:
    """Builds a project and installs it.

    **Arguments:**

    - `project`: the folder of its `pyproject.toml`.
    - `folder`: a temporary folder.

    **Returns:**

    The folder to put on `sys.path`.
    """
    before = Path.cwd()
    os.chdir(project)  # PEP 517: a backend is called in the project's folder
    try:
        wheel = build_wheel(str(folder))
    finally:
        os.chdir(before)
    site = folder / "site"
    with zipfile.ZipFile(folder / wheel) as archive:
        archive.extractall(site)
    return site
