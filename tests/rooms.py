"""Reads every import of the package with `ast` and compares it with a table of allowed edges. Used by test_rooms.py.

A room is a sub-package, or a few top-level files that belong together. Nothing is imported or run.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = "chatglm"
ROOT = "(root)"  # the package's own __init__.py

# Distributions whose import name is not their own name with "-" as "_".
IMPORT_NAMES = {
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "pillow": "PIL",
    "ipython": "IPython",
    "opencv-python": "cv2",
}


@dataclass(frozen=True)
class Room:
    """What the files of one room may import."""

    may: frozenset[str] = frozenset()  # rooms, anywhere in a file
    inside: frozenset[str] = frozenset()  # rooms, only inside functions (or for type checkers)
    third_party: frozenset[str] = frozenset()
    optional: bool = True  # may it use the packages of the extras, inside functions?


@dataclass(frozen=True)
class Rules:
    """The whole table."""

    rooms: Mapping[str, Room]
    files: Mapping[str, str] = field(default_factory=dict)  # top-level module -> room, where the names differ
    file_inside: Mapping[str, frozenset[str]] = field(
        default_factory=dict
    )  # "model.compat" -> more rooms, inside functions
    file_third_party: Mapping[str, frozenset[str]] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()  # import names of the packages that only an extra brings

    def room_of(self, module: str) -> str:
        """The room a dotted module name of the package belongs to."""
        parts = module.split(".")
        return ROOT if len(parts) == 1 else self.files.get(parts[1], parts[1])


@dataclass(frozen=True)
class Import:
    """One imported module: where, what, and whether importing the file runs it."""

    importer: str
    line: int
    target: str
    at_import: bool  # executed when the importing file is imported
    typing_only: bool = False

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


def read_tree(source: Path) -> dict[str, list[Import]]:
    """All imports of the package folder `source`, by dotted module name."""
    files = {_module_name(path, source): path for path in sorted(source.rglob("*.py"))}
    known = {".".join(name.split(".")[:depth]) for name in files for depth in range(1, name.count(".") + 2)}
    return {
        name: list(_Reader(name, path.name == "__init__.py", known).read(path.read_text(encoding="utf-8")))
        for name, path in files.items()
    }


def violations(tree: Mapping[str, list[Import]], rules: Rules) -> list[str]:
    """Every import that breaks the table, one sentence each."""
    found = []
    for module, imports in tree.items():
        room = rules.room_of(module)
        if room not in rules.rooms:
            found.append(f"{module}: the room {room!r} is not in the table")
            continue
        found += [f"{item}: {why}" for item in imports if (why := _why_forbidden(item, room, rules))]
    return found


def cycles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """One closed walk for every group of nodes that reach each other; empty when the graph has no cycle."""
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> None:
        if node in path:
            found.append([*path[path.index(node) :], node])
            return
        if node in done:
            return
        for target in sorted(edges.get(node, ())):
            visit(target, [*path, node])
        done.add(node)

    for node in sorted(edges):
        visit(node, [])
    return found


def file_edges(tree: Mapping[str, list[Import]]) -> dict[str, set[str]]:
    """Which file imports which, in whatever way: at import, inside a function, for type checkers."""
    return {
        module: {item.target for item in imports if item.target in tree} - {module} for module, imports in tree.items()
    }


def room_edges(tree: Mapping[str, list[Import]], rules: Rules) -> dict[str, set[str]]:
    """Which room imports which, in whatever way."""
    edges: dict[str, set[str]] = {}
    for module, imports in tree.items():
        room = rules.room_of(module)
        targets = {rules.room_of(item.target) for item in imports if _is_ours(item.target)}
        edges.setdefault(room, set()).update(targets - {room})
    return edges


def table_edges(rules: Rules) -> dict[str, set[str]]:
    """The edges the table allows."""
    edges = {name: set(room.may | room.inside) for name, room in rules.rooms.items()}
    for file, targets in rules.file_inside.items():
        edges[rules.room_of(f"{PACKAGE}.{file}")] |= targets
    return edges


def optional_packages(pyproject: str) -> frozenset[str]:
    """Import names of the packages that only an extra brings (`dev` aside), from the text of pyproject.toml."""
    project = tomllib.loads(pyproject)["project"]
    always = {_distribution(line) for line in project["dependencies"]} | {PACKAGE}
    extras = project.get("optional-dependencies", {})
    names = {_distribution(line) for extra, lines in extras.items() if extra != "dev" for line in lines}
    return frozenset(IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names - always)


def _distribution(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match.group()).lower()


def _is_ours(target: str) -> bool:
    return target.split(".")[0] == PACKAGE


def _why_forbidden(item: Import, room: str, rules: Rules) -> str:
    return (_why_not_room if _is_ours(item.target) else _why_not_third_party)(item, room, rules)


def _why_not_room(item: Import, room: str, rules: Rules) -> str:
    target = rules.room_of(item.target)
    short = item.importer.partition(".")[2]
    inside = rules.rooms[room].inside | rules.file_inside.get(short, frozenset())
    if target == room or target in rules.rooms[room].may:
        return ""
    if target in inside:
        return f"{room} may import {target} only inside functions" if item.at_import else ""
    return f"{room} may not import {target}"


def _why_not_third_party(item: Import, room: str, rules: Rules) -> str:
    name = item.target.split(".")[0]
    short = item.importer.partition(".")[2]
    if name in sys.stdlib_module_names or name == "__future__":
        return ""
    if name in rules.rooms[room].third_party | rules.file_third_party.get(short, frozenset()):
        return ""
    if name in rules.optional and rules.rooms[room].optional:
        return f"{name} comes with an extra: import it inside the function that needs it" if item.at_import else ""
    return f"{room} may not import {name}"


def _module_name(path: Path, source: Path) -> str:
    parts = [PACKAGE, *path.relative_to(source).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@dataclass
class _Reader:
    """Walks one file, knowing whether it stands in a function or in an `if TYPE_CHECKING:` block."""

    module: str
    is_package: bool
    known: set[str]

    def read(self, text: str) -> Iterator[Import]:
        yield from self._walk(ast.parse(text), at_import=True, typing_only=False)

    def _walk(self, node: ast.AST, at_import: bool, typing_only: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            for target in self._targets(child):
                yield Import(self.module, child.lineno, target, at_import and not typing_only, typing_only)  # type: ignore[attr-defined]
            if isinstance(child, ast.If) and _asks_type_checking(child.test):
                for statement in child.body:
                    yield from self._walk(ast.Module([statement], []), at_import, True)
                for statement in child.orelse:
                    yield from self._walk(ast.Module([statement], []), at_import, typing_only)
                continue
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from self._walk(child, at_import and not is_function, typing_only)

    def _targets(self, node: ast.AST) -> list[str]:
        if isinstance(node, ast.Import):
            return [self._known_module(alias.name) for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            base = self._base(node)
            return sorted({self._known_module(f"{base}.{alias.name}", base) for alias in node.names})
        if isinstance(node, ast.Call) and _is_import_call(node.func) and node.args:
            first = node.args[0]
            return [first.value] if isinstance(first, ast.Constant) and isinstance(first.value, str) else []
        return []

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.module.split(".")
        above = parts[: len(parts) - node.level + self.is_package]
        return ".".join([*above, *([node.module] if node.module else [])])

    def _known_module(self, name: str, otherwise: str | None = None) -> str:
        """`from a import b` names the module a.b when there is one, else something in a."""
        return name if otherwise is None or name in self.known else otherwise


def _asks_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _is_import_call(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__")
