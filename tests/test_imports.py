"""Imports point downward only, and `import pycontainer` loads nothing heavy."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "pycontainer"

LAYERS: dict[str, int] = {
    "_version": 0,
    "errors": 0,
    "in_time": 0,
    "completed": 0,
    "units": 0,
    "oci": 1,
    "mounts": 1,
    "_sys": 1,
    "supervisor": 2,
    "blobs": 2,
    "layer": 3,
    "distribution": 3,
    "snapshot": 3,
    "network": 3,
    "runtime": 3,
    "store": 4,
    "transfer": 5,
    "archive": 5,
    "image": 5,
    "host_image": 5,
    "registry": 5,
    "container": 5,
    "volume": 5,
    "filling": 5,
    "process": 5,
    "runner": 5,
    "options": 5,
    "option_values": 5,
    "diagnosis": 5,
    "host_checks": 5,
    "execution": 5,
    "launch": 5,
    "advance": 5,
    "recipes": 5,
    "session": 5,
    "streams": 5,
    "output": 5,
    "waiting": 5,
    "writable": 5,
    "lives": 5,
    "inside": 5,
    "files": 5,
    "known": 5,
    "keeping": 5,
    "minding": 5,
    "logs": 5,
    "happenings": 5,
    "measuring": 5,
    "processes": 5,
    "attaching": 5,
    "restarting": 5,
    "changes": 5,
    "committing": 5,
    "templates": 5,
    "connecting": 5,
    "naming": 5,
    "network_options": 5,
    "networks": 5,
    "publishing": 5,
    "wiring": 5,
    "listening": 5,
    "adapters": 5,
    "wait": 5,
    "readiness": 5,
    "probing": 5,
    "healthcheck": 5,
    "health": 5,
    "compat": 6,
    "cli": 6,
    "pytest_plugin": 6,
    "__main__": 6,
    "": 7,
}
"""The first part of a module's name below `pycontainer`, to its layer (DESIGN 1; "" is the package itself).

A module imports from lower layers and from its own; loading in circles is excluded by a test of its own.
"""

EXCUSED: dict[tuple[str, str], str] = {
    ("pycontainer.supervisor.failure", "pycontainer.runtime.hints"): (
        "a table of remedies with no imports of its own, read only when a start has failed"
    ),
}
"""Imports inside a function that point upward all the same: (importer, imported) -> the reason."""

COMPILED = "pycontainer._native"
ONLY_IMPORTER = "pycontainer._sys"

HEAVY = (
    "requests",
    "urllib3",
    "zstandard",
    "isal",
    "sqlite3",
    "asyncio",
    "http.client",
    "ssl",
    "cffi",
    "_cffi_backend",
)
"""What `import pycontainer` must not load: each costs milliseconds, or is needed by few programs."""


COSTLY: dict[str, tuple[str, ...]] = {
    "requests": ("pycontainer.distribution", "pycontainer.adapters"),
    "urllib3": ("pycontainer.distribution", "pycontainer.adapters"),
    "ssl": ("pycontainer.distribution",),
    "sqlite3": ("pycontainer.store.catalog",),
    "zstandard": (),
    "isal": (),
    "asyncio": ("pycontainer.compat",),
}
"""Packages that take milliseconds to load, to the modules whose whole purpose they are."""


class Import:
    """One import statement's target, as a dotted module name."""

    def __init__(
        self, importer: str, target: str, line: int, *, typing_only: bool, at_module_level: bool
    ) -> None:
        self.importer = importer
        self.target = target
        self.line = line
        self.typing_only = typing_only
        self.at_module_level = at_module_level

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


def modules(root: Path = SOURCE) -> dict[str, Path]:
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, path: Path, known: set[str]) -> Iterator[Import]:
    """Every import in the file, those inside functions and under TYPE_CHECKING included."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def targets(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            return
        base = node.module or ""
        if node.level:
            anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*anchor, base] if base else anchor)
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            yield inner if inner in known or inner == COMPILED else base

    def walk(node: ast.AST, typing_only: bool, at_module_level: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                for target in targets(child):
                    yield Import(
                        name, target, child.lineno, typing_only=typing_only, at_module_level=at_module_level
                    )
            elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                yield from walk(ast.Module(body=child.body, type_ignores=[]), True, at_module_level)
                yield from walk(ast.Module(body=child.orelse, type_ignores=[]), typing_only, at_module_level)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, typing_only, at_module_level and not inside)

    yield from walk(ast.parse(path.read_text(encoding="utf-8"), str(path)), False, True)


def all_imports(root: Path = SOURCE) -> list[Import]:
    known = modules(root)
    return [found for name, path in known.items() for found in imports_of(name, path, set(known))]


def unit(module: str) -> str:
    """`pycontainer.oci.digest` -> `oci`: what the layer table speaks of."""
    return module.split(".")[1] if "." in module else ""


def layer(module: str) -> int:
    """A module that is not in the table counts as lowest; `test_every_module_has_a_layer` names it."""
    return LAYERS.get(unit(module), 0)


def upward(found: list[Import]) -> list[str]:
    """The imports that point to a higher layer and are not excused; types alone may point anywhere."""
    return [
        f"{imported} (layer {layer(imported.importer)} -> {layer(imported.target)})"
        for imported in found
        if imported.target.split(".")[0] == "pycontainer"
        and imported.target != COMPILED
        and not imported.typing_only
        and layer(imported.target) > layer(imported.importer)
        and (imported.at_module_level or (imported.importer, imported.target) not in EXCUSED)
    ]


def test_every_module_has_a_layer() -> None:
    assert {unit(name) for name in modules()} - set(LAYERS) == set()


def test_imports_point_downward() -> None:
    assert upward(all_imports()) == []


def test_exceptions_are_still_needed() -> None:
    present = {(found.importer, found.target) for found in all_imports() if not found.at_module_level}
    assert set(EXCUSED) - present == set()
    assert all(EXCUSED.values()), "each exception says why"


def test_loading_goes_in_no_circle() -> None:
    """Within a layer, a method may import late what in turn needs its class; loading may not."""
    edges: dict[str, set[str]] = {}
    for found in all_imports():
        inside = found.target.startswith("pycontainer.") and found.target != COMPILED
        if inside and found.at_module_level and not found.typing_only:
            edges.setdefault(unit(found.importer), set()).add(unit(found.target))
    assert circles(edges) == []


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Paths that come back to their start, among different units."""

    def search(path: list[str]) -> Iterator[list[str]]:
        for following in sorted(edges.get(path[-1], set()) - {path[-1]}):
            if following == path[0]:
                yield [*path, following]
            elif following not in path and following > path[0]:
                yield from search([*path, following])

    return [found for start in sorted(edges) for found in search([start])]


def test_only_one_module_touches_the_compiled_one() -> None:
    assert {found.importer for found in all_imports() if found.target == COMPILED} <= {ONLY_IMPORTER}


def test_costly_packages_are_imported_where_they_are_used() -> None:
    """At module level only in modules that nobody needs for a run; everywhere else inside a function."""
    loose = [
        str(found)
        for found in all_imports()
        if found.target.startswith(tuple(COSTLY))
        and found.at_module_level
        and not found.typing_only
        and not found.importer.startswith(tuple(COSTLY[found.target.split(".")[0]]))
    ]
    assert loose == []


def test_the_rules_can_fail(tmp_path: Path) -> None:
    """A tree with one offence of each kind is caught by each rule."""
    root = tmp_path / "pycontainer"
    (root / "oci").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "errors.py").write_text("def late():\n    from pycontainer.store import Store\n")
    (root / "store.py").write_text("from . import image\nfrom ._native import lib\n")
    (root / "image.py").write_text("from pycontainer import container\n")
    (root / "container.py").write_text("import pycontainer.image\n")
    (root / "oci" / "__init__.py").write_text(
        "from ..store import Store\nif TYPE_CHECKING:\n    import pycontainer.cli\n"
    )
    found = all_imports(root)
    assert [text.split(" (")[0] for text in upward(found)] == [
        "pycontainer.errors:2 imports pycontainer.store",
        "pycontainer.oci:1 imports pycontainer.store",
        "pycontainer.store:1 imports pycontainer.image",
    ]
    assert COMPILED in {one.target for one in found}
    assert circles({"container": {"image"}, "image": {"container"}}) == [["container", "image", "container"]]


def loaded_by(statement: str) -> set[str]:
    """Modules that a fresh interpreter has loaded after the statement and not before."""
    code = f"import sys; before = set(sys.modules); {statement}; import json; " + (
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    return set(json.loads(done.stdout))


def test_import_loads_nothing_heavy() -> None:
    loaded = loaded_by("import pycontainer")
    assert "pycontainer" in loaded
    assert sorted(loaded & set(HEAVY)) == []


def test_import_loads_few_modules() -> None:
    """The public names come lazily: the package alone is a handful of modules."""
    own = {name for name in loaded_by("import pycontainer") if name.startswith("pycontainer.")}
    assert len(own) <= 3, sorted(own)


def test_a_run_needs_nothing_costly() -> None:
    """Each public name that a run touches is loaded here; a registry or a catalogue is not among them."""
    loaded = loaded_by(
        "import pycontainer as pc; pc.run, pc.create, pc.start, pc.Image, pc.Container, pc.Store"
    )
    assert sorted(loaded & set(COSTLY)) == []


def test_report_import_time(record_property: pytest.RecordProperty) -> None:
    """Reported, not judged: time on a shared machine proves nothing."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import pycontainer"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE.parent)},
    )
    lines = [line for line in done.stderr.splitlines() if line.rpartition("|")[2].strip() == "pycontainer"]
    micros = int(lines[-1].split("|")[1])
    record_property("import_us", micros)
    print(f"import pycontainer: {micros / 1000:.2f} ms")


def test_type_checkers_see_the_names_that_programs_see() -> None:
    import pycontainer

    nodes = ast.walk(ast.parse(Path(pycontainer.__file__).read_text()))
    shown = {alias.asname for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert shown - {None} == set(pycontainer.__all__)
