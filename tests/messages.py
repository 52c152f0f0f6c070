"""Every message of a `SubspectError` in the source, found by its syntax tree, with ``…`` where something varies.

A message that is put together from parts (a condition, a constant, a function that words it) is followed to them; each way that
it can read is one message. What `advice` adds to the errors of a block, it adds here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

SRC = Path(__file__).parents[1] / "src"
VARIES = "…"
_DEEPEST = 6  # parts of parts; nothing in the source is nested deeper


@dataclass(frozen=True)
class Message:
    """One way in which an error can read: its text, and where it is raised."""

    text: str
    file: str
    line: int


@dataclass(frozen=True)
class Scope:
    """Where a piece of code stands: its module, and the function around it."""

    module: str
    function: ast.FunctionDef | None


@cache
def tree(module: str) -> ast.Module:
    """Return the syntax tree of a module, by its dotted name."""
    path = SRC / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def modules() -> list[str]:
    """List the modules of the package."""
    paths = (path.relative_to(SRC).with_suffix("") for path in sorted((SRC / "subspect").rglob("*.py")))
    return [".".join(path.parts).removesuffix(".__init__") for path in paths]


@cache
def messages() -> list[Message]:
    """Find all messages, once each, in the order of the files."""
    found: dict[str, Message] = {}
    for module in modules():
        for call, scope, added in calls(tree(module), Scope(module, None), ()):
            for text in filter(None, texts(call.args[0], scope)):
                whole = tidy("; ".join([text, *added]))
                found.setdefault(whole, Message(whole, f"{module.replace('.', '/')}.py", call.lineno))
    return list(found.values())


@cache
def warnings() -> list[Message]:
    """Find all that is logged as a warning, once each."""
    found: dict[str, Message] = {}
    for module in modules():
        for node in ast.walk(tree(module)):
            if called(node) == "log.warning" and isinstance(node, ast.Call):
                text = ast.literal_eval(node.args[0])
                whole = tidy(re.sub(r"%[-+.\d]*[sdrgef]", VARIES, text).replace("%%", "%"))
                found.setdefault(whole, Message(whole, f"{module.replace('.', '/')}.py", node.lineno))
    return list(found.values())


def tidy(text: str) -> str:
    """Write what varies once where it stands twice in a row, and leave out a value that belongs to the text before it."""
    text = re.sub(r"\s+", " ", text)
    return re.sub(rf"{VARIES}(?:[ ,]*{VARIES})+", VARIES, text).strip()


def calls(node: ast.AST, scope: Scope, added: Sequence[str]) -> Iterator[tuple[ast.Call, Scope, Sequence[str]]]:
    """Go through all that makes an error of ours: the call, its scope, and what is added to it."""
    if isinstance(node, ast.FunctionDef):
        scope = Scope(scope.module, node)
    if isinstance(node, ast.With):
        given = [one.context_expr for one in node.items if called(one.context_expr) == "advice"]
        added = [*added, *(texts(call.args[0], scope)[0] for call in given if isinstance(call, ast.Call))]
    if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "SubspectError" for base in node.bases):
        for one in ast.walk(node):
            if isinstance(one, ast.Call) and called(one) == "super().__init__" and one.args:
                yield one, scope, added
        return
    if isinstance(node, ast.Call) and called(node) == "SubspectError" and node.args:
        yield node, scope, added
    for child in ast.iter_child_nodes(node):
        yield from calls(child, scope, added)


def called(node: ast.AST) -> str:
    """Return what is called, nothing where it is no call."""
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def texts(node: ast.AST, scope: Scope, depth: int = 0) -> list[str]:
    """List the ways in which an expression can read, with ``…`` where something varies."""
    if depth > _DEEPEST:
        return [VARIES]
    inner = depth + 1
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.FormattedValue):
        return texts(node.value, scope, inner) if node.conversion == -1 and node.format_spec is None else [VARIES]
    if isinstance(node, ast.JoinedStr):
        return joined([texts(part, scope, inner) for part in node.values])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return joined([texts(part, scope, inner) for part in (node.left, node.right)])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return [*texts(node.left, scope, inner), ""]
    if isinstance(node, ast.IfExp):
        return [*texts(node.body, scope, inner), *texts(node.orelse, scope, inner)]
    if isinstance(node, ast.BoolOp):
        return [text for part in node.values for text in texts(part, scope, inner)]
    if isinstance(node, ast.Name):
        return named(node.id, scope, inner)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return worded(node.func.id, scope, inner)
    return [VARIES]


def joined(parts: Sequence[list[str]]) -> list[str]:
    """Put parts together in all ways; where there are too many ways, as if parts of several varied."""
    ways = 1
    for part in parts:
        ways *= len(part)
    few = parts if ways <= 64 else [part if len(part) == 1 else [VARIES] for part in parts]
    return ["".join(one) for one in product(*few)]


def named(name: str, scope: Scope, depth: int) -> list[str]:
    """List what a name can stand for: an assignment in the function, else a constant of its module or of another."""
    if scope.function is not None:
        own = assigned(name, scope.function)
        if own or name in [one.arg for one in ast.walk(scope.function) if isinstance(one, ast.arg)]:
            return [text for value in own for text in texts(value, scope, depth)] or [VARIES]
    body = tree(scope.module).body
    found = [value for statement in body for value in assigned(name, statement)]
    if found:
        return texts(found[0], Scope(scope.module, None), depth)
    home = imported(name, scope.module)
    return named(name, Scope(home, None), depth) if home else [VARIES]


def assigned(name: str, node: ast.AST) -> list[ast.expr]:
    """List the expressions that are assigned to a name within a function or statement."""
    found = []
    for one in ast.walk(node):
        if isinstance(one, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in one.targets):
            found.append(one.value)
        elif isinstance(one, ast.AugAssign | ast.For | ast.comprehension) and name in ast.unparse(one.target):
            found.append(ast.Name(VARIES))  # something that is read on the way
        elif isinstance(one, ast.NamedExpr) and one.target.id == name:
            found.append(one.value)
    return found


def worded(name: str, scope: Scope, depth: int) -> list[str]:
    """List what a function can return, where it is one of ours that returns text."""
    for statement in ast.walk(tree(scope.module)):
        if isinstance(statement, ast.FunctionDef) and statement.name == name:
            if statement.returns is None or ast.unparse(statement.returns) != "str":
                return [VARIES]
            own = Scope(scope.module, statement)
            values = [one.value for one in ast.walk(statement) if isinstance(one, ast.Return) and one.value]
            return [text for value in values for text in texts(value, own, depth) if text]
    home = imported(name, scope.module)
    return worded(name, Scope(home, None), depth) if home else [VARIES]


def imported(name: str, module: str) -> str:
    """Return the module of ours that a name comes from, nothing where it is none."""
    froms = (one for one in tree(module).body if isinstance(one, ast.ImportFrom))
    homes = (one.module or "" for one in froms if name in [alias.asname or alias.name for alias in one.names])
    return next((home for home in homes if home in modules()), "")
