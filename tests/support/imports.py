"""The imports inside ``trainer/``, and the table of who may import whom."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "trainer"
LARGEST_TOP = 24  # entries side by side at the top of trainer/

# From the lowest floor to the highest: an entry imports only what its line names, and only entries above it in this
# table. ``errors`` and ``command_line`` (the commands in messages) are open to all.
TABLE = {
    "errors": (),
    "command_line": (),
    "storage": (),
    "config": ("storage",),
    "runtime": ("config", "storage"),
    "checkpoint": ("config", "storage", "runtime"),
    "distributed": ("config", "storage", "runtime"),
    "run_directory": ("checkpoint", "config", "storage"),
    "data": ("config", "runtime", "storage"),
    "models": ("config", "distributed", "runtime"),
    "training": ("models", "data", "distributed", "run_directory", "config", "runtime"),
    "interchange": ("models", "run_directory", "checkpoint", "config", "storage"),
    "fingerprint": ("training", "models", "data", "distributed", "checkpoint", "config", "runtime", "storage"),
    "monitoring": ("training", "models", "data", "run_directory", "checkpoint", "runtime", "config", "storage"),
    "report": ("monitoring", "run_directory", "checkpoint", "config", "storage"),
    "diagnosis": (*("interchange", "training", "models", "data", "run_directory", "checkpoint", "config", "storage"),),
    "run": (
        *("diagnosis", "monitoring", "fingerprint", "interchange", "training", "models", "data", "run_directory"),
        *("distributed", "checkpoint", "runtime", "config", "storage"),
    ),
    "inference": (
        *("run", "diagnosis", "monitoring", "interchange", "training", "models", "data", "config", "runtime"),
    ),
    "sweeps": ("run", "distributed", "run_directory", "checkpoint", "config", "runtime", "storage"),
    "plugins": ("distributed", "config"),
}
# They may import everything; nothing imports them but the two that start the program.
HIGHEST = ("commands", "api", "plugins")
STARTERS = ("__main__", "__init__")
# narrower than a package: (importer, package) → the modules of it that may be imported
ONLY = {
    ("training", "run_directory"): tuple(f"trainer.run_directory.{name}" for name in ("metrics", "phases", "costs")),
    ("report", "monitoring"): ("trainer.monitoring.confusion",),  # a report takes no TensorFlow
    ("inference", "monitoring"): ("trainer.monitoring.confusion",),
    ("inference", "runtime"): ("trainer.runtime.quiet",),
}
INSIDE_FUNCTIONS = {("sweeps", "run")}  # it would import TensorFlow, which takes seconds


@dataclasses.dataclass(frozen=True)
class Arrow:
    """An import of one module of ``trainer`` by another. ``deferred`` is one inside a function."""

    importer: str
    imported: str
    line: int
    deferred: bool

    @property
    def ends(self) -> tuple[str, str]:
        return entry(self.importer), entry(self.imported)

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}: {self.imported}"


def entry(module: str) -> str:
    """The entry at the top of ``trainer/`` that a module belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def modules(package: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def arrows(package: Path) -> list[Arrow]:
    """Every import, wherever it stands: at the top, under ``TYPE_CHECKING`` or inside a function."""
    there = modules(package)
    found = []
    for importer, path in there.items():
        tree = ast.parse(path.read_text())
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        inside = {id(node) for function in functions for node in ast.walk(function)}
        base = importer if path.name == "__init__.py" else importer.rpartition(".")[0]
        for node in ast.walk(tree):
            for imported in named_by(node, base):
                if imported.split(".")[0] != package.name:
                    continue
                # what is imported may be a name in a module
                module = imported if imported in there else imported.rpartition(".")[0]
                if module != importer:
                    found.append(Arrow(importer, module, node.lineno, id(node) in inside))
    return found


def named_by(node: ast.AST, base: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        front = node.module or ""
        if node.level:
            above = base.split(".")[: len(base.split(".")) - node.level + 1]
            front = ".".join([*above, *([node.module] if node.module else [])])
        yield from (f"{front}.{alias.name}" for alias in node.names)


def offences(package: Path) -> list[str]:
    """The imports that the table does not allow."""
    return [str(arrow) for arrow in arrows(package) if not is_allowed(arrow)]


def is_allowed(arrow: Arrow) -> bool:
    importer, imported = arrow.ends
    if importer == imported or importer in STARTERS:
        return True
    if imported in (*HIGHEST, *STARTERS):
        return False
    if importer in ("commands", "api") or imported in ("errors", "command_line"):
        return True
    if imported not in TABLE.get(importer, ()):
        return False
    modules_allowed = ONLY.get((importer, imported))
    if modules_allowed is not None and arrow.imported not in modules_allowed:
        return False
    return arrow.deferred or (importer, imported) not in INSIDE_FUNCTIONS


def circle(graph: Mapping[str, set[str]]) -> Sequence[str]:
    """Some circle in a graph, each node once; empty when there is none."""
    done: set[str] = set()

    def walk(node: str, way: tuple[str, ...]) -> tuple[str, ...]:
        if node in way:
            return way[way.index(node) :]
        if node in done:
            return ()
        for following in sorted(graph.get(node, ())):
            found = walk(following, (*way, node))
            if found:
                return found
        done.add(node)
        return ()

    return next((found for node in sorted(graph) if (found := walk(node, ()))), ())


def folders(package: Path) -> dict[str, set[str]]:
    """Which folder imports which, those that lie in each other aside."""
    there = modules(package)
    graph: dict[str, set[str]] = {}
    for arrow in arrows(package):
        one, other = (
            name if there[name].name == "__init__.py" else name.rpartition(".")[0]
            for name in (arrow.importer, arrow.imported)
        )
        if one != other and not f"{one}.".startswith(f"{other}.") and not f"{other}.".startswith(f"{one}."):
            graph.setdefault(one, set()).add(other)
    return graph
