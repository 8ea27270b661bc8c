"""The import hook: puts the decorator `check` on every function and class of the package before it is compiled.

It is jaxtyping's own import hook with another decorator. Only the decorator sees the function itself, so that messages
about missing and unknown arguments can name it.
"""

import ast
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import decode_source
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
else:
    ReadableBuffer = bytes

_PACKAGE: Final = __name__.rpartition(".")[0]  # not "vitrail" in a copy within another package
_DECORATOR: Final = "_vitrail_check"
_CACHE: Final = f".{_PACKAGE}-checked-1.pyc"
"""How the files of compiled modules end, apart from those of a plain import. It grows with changes of `_Decorate`."""
_UNCHECKED: Final = tuple(f"{_PACKAGE}.{name}" for name in ("_explain", "_typecheck", "_hook"))
"""What finds and explains the faults is not checked itself."""


def install() -> None:
    """Installs the hook for all modules of vitrail that are imported from now on."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Decorate(ast.NodeTransformer):
    def visit_Module(self, node: ast.Module) -> ast.Module:
        """Imports the decorator after the docstring."""
        self.generic_visit(node)
        start = int(ast.get_docstring(node, clean=False) is not None)
        node.body.insert(start, ast.parse(f"from {_PACKAGE}._typecheck import check as {_DECORATOR}").body[0])
        return ast.fix_missing_locations(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        """Decorates after `@dataclass`, which makes the `__init__` that is checked."""
        self.generic_visit(node)
        node.decorator_list.insert(0, _name_decorator(node))
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """Decorates before all other decorators, which may return something else than a function."""
        self.generic_visit(node)
        node.decorator_list.append(_name_decorator(node))
        return node


def _name_decorator(node: ast.stmt) -> ast.expr:
    return ast.copy_location(ast.Name(_DECORATOR, ast.Load()), node)


class _Loader(SourceFileLoader):
    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:
        """Compiles a module with its functions decorated."""
        tree = ast.parse(decode_source(data), path)
        return compile(_Decorate().visit(tree), path, "exec", dont_inherit=True, optimize=_optimize)

    def get_data(self, path: str) -> bytes:
        """Reads the source, or what was compiled from it."""
        return super().get_data(_rename_cache(path))

    def set_data(self, path: str, data: ReadableBuffer, *, _mode: int = 0o666) -> None:
        """Writes what was compiled."""
        super().set_data(_rename_cache(path), data, _mode=_mode)


def _rename_cache(path: str) -> str:
    return path.removesuffix(".pyc") + _CACHE if path.endswith(".pyc") else path


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Finds a module of vitrail."""
        if not fullname.startswith(f"{_PACKAGE}.") or fullname.startswith(_UNCHECKED):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec
