"""Rules of the tests themselves: helpers live once, and each file of tests says what it tests."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the tests by its path."""
    return {
        str(path.relative_to(TESTS)): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(TESTS.rglob("*.py"))
    }


def helpers_of(module: ast.Module) -> Iterator[Definition]:
    """The functions and classes of a module that are not tests."""
    for node in module.body:
        if isinstance(node, Definition) and not node.name.lower().startswith("test"):
            yield node


def body_of(helper: Definition) -> str:
    """What a helper does, without its name and its docstring; empty if it does nothing."""
    statements = [
        ast.dump(statement)
        for statement in helper.body
        if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        and not isinstance(statement, ast.Pass)
    ]
    return "\n".join(statements)


def test_helpers_are_written_once() -> None:
    """Two modules with a helper of the same body are one helper that belongs in tests/support."""
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for path, module in modules().items():
        for helper in helpers_of(module):
            places[body_of(helper)][path] = f"{path}:{helper.lineno} {helper.name}"
    copies = [
        " = ".join(found.values()) for body, found in places.items() if body and len(found) > 1
    ]
    assert not copies, "move these helpers to tests/support: " + "; ".join(copies)


def test_helpers_are_not_imported_from_tests() -> None:
    """A module of tests imports from tests/support, never from another module of tests."""
    wrong = [
        f"{path} imports {node.module}"
        for path, module in modules().items()
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom)
        and any(part.startswith("test_") for part in (node.module or "").split("."))
    ]
    assert not wrong, "move what they import to tests/support: " + "; ".join(wrong)
