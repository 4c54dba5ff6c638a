"""Finds the places of a script that touch what belongs to the measurement: seed, tokenizer, evaluation; or the world.

Names are followed through imports, aliases and literal getattr. A determined author can hide from this; the
measurement itself is protected by the gate and the judge, and this check tells an honest one early.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from autoresearch_operator.proposers.frame import split, tree_of


class Kind(StrEnum):
    """What a finding is about."""

    SEED = "seed"
    TOKENIZER = "tokenizer"
    EVALUATION = "evaluation"
    NETWORK = "network"
    PATH = "path"
    CLOCK = "clock"


@dataclass(frozen=True, slots=True)
class Finding:
    """One place: the code there, spelled alike wherever it stands, and its line."""

    kind: Kind
    text: str
    line: int


_SEED_METHODS = frozenset({"manual_seed", "manual_seed_all", "set_rng_state", "set_rng_state_all", "fork_rng"})
_SEED_PATHS = re.compile(
    r"(random\.(seed|setstate|Random|SystemRandom)|numpy\.random(\..+)?|torch\.(seed|Generator|random\..+)"
    r"|torch\.(\w+\.)?(manual_seed|manual_seed_all|seed_all|set_rng_state))\Z"
)
_CLOCKS = re.compile(
    r"(time\.(time|time_ns|perf_counter|perf_counter_ns|monotonic|monotonic_ns|process_time|clock_gettime)"
    r"|datetime\.(datetime\.)?(now|utcnow|today))\Z"
)
_NETWORK = frozenset(
    {"socket", "requests", "urllib", "urllib3", "http", "httpx", "aiohttp", "ftplib", "smtplib", "websockets", "wandb"}
)
_TOKENIZERS = frozenset({"tiktoken", "tokenizers", "sentencepiece", "rustbpe"})
_EVALUATION_NAMES = frozenset(
    {"evaluate_bpb", "make_dataloader", "get_token_bytes", "MAX_SEQ_LEN", "TIME_BUDGET", "EVAL_TOKENS"}
)
_TOKENIZER_NAMES = frozenset({"Tokenizer", "token_bytes"})
_ABSOLUTE = re.compile(r"(/[\w.-]+/[\w./-]*|~/.*|[A-Za-z]:\\.*)\Z")
_HIDDEN_NAMESPACES = frozenset({"sys.modules", "importlib.reload"})


def findings(source: str) -> list[Finding]:
    """Every place of `source` that touches seed, tokenizer, evaluation, network, absolute paths or the clock.

    A text that is no Python has none.
    """
    parts = split(source)
    found = _findings(parts.frame)
    # Where a number is part of what was found (SEED = 42), it is another finding with another number.
    if lines := {finding.line for finding in found} & {number.line for number in parts.numbers}:
        found = _findings(parts.keeping(lines))
    return list(found)


@functools.lru_cache(maxsize=16)
def _findings(source: str) -> tuple[Finding, ...]:
    try:
        tree = tree_of(source.removeprefix("\ufeff"))
        linter = _Linter()
        linter.learn(tree)
        linter.visit(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    return tuple(linter.found)


class _Linter(ast.NodeVisitor):
    def __init__(self) -> None:
        self.found: list[Finding] = []
        self._names: dict[str, str] = {}
        """Name in the script -> dotted path that it stands for."""
        self._called: set[int] = set()

    def learn(self, tree: ast.Module) -> None:
        """Take in imports first, then plain aliases such as `m = torch.manual_seed`, wherever they stand."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    # `import numpy.random` binds numpy, `import numpy.random as r` binds the inner module.
                    top = alias.name.split(".")[0]
                    self._names[alias.asname or top] = alias.name if alias.asname else top
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    self._names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        for node in ast.walk(tree):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Name() | ast.Attribute() | ast.Call() as value):
                    path = self._path(value)
                    if path and name not in self._names:
                        self._names[name] = path

    def _path(self, node: ast.expr) -> str:
        """The dotted path that an expression stands for, such as torch.manual_seed; empty when it is none."""
        match node:
            case ast.Name(id=name):
                return self._names.get(name, "")
            case ast.Attribute(value=value, attr=attribute):
                owner = self._path(value)
                return f"{owner}.{attribute}" if owner else ""
            case ast.Call(func=ast.Name(id="getattr"), args=[owner_node, ast.Constant(value=str(attribute)), *_]):
                owner = self._path(owner_node)
                return f"{owner}.{attribute}" if owner else ""
            case ast.Call(func=ast.Name(id="__import__"), args=[ast.Constant(value=str(module)), *_]):
                return module
            case ast.Call(func=function, args=[ast.Constant(value=str(module)), *_]):
                return module if self._path(function) == "importlib.import_module" else ""
        return ""

    def _add(self, kind: Kind, node: ast.AST, text: str = "") -> None:
        self.found.append(Finding(kind, text or ast.unparse(node), getattr(node, "lineno", 1)))

    def _is_seed(self, node: ast.expr) -> bool:
        if _SEED_PATHS.match(self._path(node)):
            return True
        return isinstance(node, ast.Attribute) and node.attr in _SEED_METHODS

    def visit_Call(self, node: ast.Call) -> None:
        path = self._path(node.func)
        if self._is_seed(node.func):
            # With its arguments: another seed in the same call is another seed.
            self._called.add(id(node.func))
            arguments = ", ".join(ast.unparse(argument) for argument in [*node.args, *(k.value for k in node.keywords)])
            self._add(Kind.SEED, node, f"{path or ast.unparse(node.func)}({arguments})")
        if path in _HIDDEN_NAMESPACES and node.args and self._is_prepare(self._path(node.args[0])):
            self._add(Kind.EVALUATION, node)
        match node:
            case ast.Call(func=ast.Name(id="setattr" | "delattr"), args=[owner, name, *_]):
                literal = name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else "?"
                self._patched(f"{self._path(owner)}.{literal}", node)
            case ast.Call(func=ast.Name(id="vars"), args=[owner]) if self._is_prepare(self._path(owner)):
                self._add(Kind.EVALUATION, node)
        imported = self._path(node)
        if imported and "." not in imported:
            self._imported(imported, node)
        if imported:
            self._reference(node, imported)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Store | ast.Del):
            self._patched(self._path(node), node)
        else:
            self._reference(node, self._path(node))
        if node.attr == "__dict__" and self._is_prepare(self._path(node.value)):
            self._add(Kind.EVALUATION, node)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        replaced = not isinstance(node.ctx, ast.Load)
        if self._path(node.value) == "sys.modules" and (replaced or "prepare" in ast.unparse(node.slice)):
            self._add(Kind.EVALUATION, node)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._reference(node, self._names.get(node.id, ""))
        self.generic_visit(node)

    def _reference(self, node: ast.expr, path: str) -> None:
        """A protected function named without being called there: it may be called under another name."""
        if id(node) not in self._called and _SEED_PATHS.match(path) and path != "numpy.random":
            self._add(Kind.SEED, node, path)
        if _CLOCKS.match(path):
            self._add(Kind.CLOCK, node, path)

    @staticmethod
    def _is_prepare(path: str) -> bool:
        return path == "prepare" or path.startswith(("prepare.", "autoresearch_trainer"))

    def _patched(self, path: str, node: ast.AST) -> None:
        """An attribute is set or deleted."""
        if path == "torch.backends.cudnn.deterministic":
            self._add(Kind.SEED, node)
        if self._is_prepare(path):
            tokenizer = any(name in path.split(".") for name in _TOKENIZER_NAMES)
            self._add(Kind.TOKENIZER if tokenizer else Kind.EVALUATION, node, f"{path} is set")

    # Names bound ------------------------------------------------------------------------------------------------------

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._bound_in(target, node.value)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._bound_in(node.target, node.value)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._bound_in(node.target, node.value)
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._bound_in(node.target, node.value)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._bound(node.name, node, f"def {node.name}")
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._bound(node.name, node, f"class {node.name}")
        for base in node.bases:
            if self._path(base) == "prepare.Tokenizer":
                self._add(Kind.TOKENIZER, node, f"class {node.name}({ast.unparse(base)})")
        self.generic_visit(node)

    def _bound_in(self, target: ast.expr, value: ast.expr) -> None:
        for name in _target_names(target):
            self._bound(name.id, name, f"{name.id} = {ast.unparse(value)}")

    def _bound(self, name: str, node: ast.AST, text: str) -> None:
        words = set(name.upper().split("_"))
        if words & {"SEED", "SEEDS"}:
            self._add(Kind.SEED, node, text)
        elif name in _TOKENIZER_NAMES or words & {"VOCAB", "VOCABULARY"}:
            self._add(Kind.TOKENIZER, node, text)
        elif name in _EVALUATION_NAMES or (name.isupper() and words & {"EVAL", "EVALUATION"}):
            self._add(Kind.EVALUATION, node, text)

    # Imports and text -------------------------------------------------------------------------------------------------

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._imported(alias.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self._imported(node.module or "", node)
        for alias in node.names:
            path = f"{node.module}.{alias.name}"
            if alias.asname in _EVALUATION_NAMES | _TOKENIZER_NAMES and alias.asname != alias.name:
                self._bound(alias.asname or "", node, f"{alias.asname} = {path}")
            elif node.module != "prepare" and alias.name in _EVALUATION_NAMES | _TOKENIZER_NAMES:
                self._bound(alias.name, node, f"{alias.name} = {path}")

    def _imported(self, module: str, node: ast.AST) -> None:
        top = module.partition(".")[0]
        if top in _NETWORK:
            self._add(Kind.NETWORK, node, f"import {top}")
        elif top in _TOKENIZERS:
            self._add(Kind.TOKENIZER, node, f"import {top}")
        elif top == "autoresearch_trainer":
            self._add(Kind.EVALUATION, node, f"import {module}")

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and _ABSOLUTE.match(node.value):
            self._add(Kind.PATH, node, repr(node.value))


def _target_names(target: ast.expr) -> Iterator[ast.Name]:
    if isinstance(target, ast.Name):
        yield target
    elif isinstance(target, ast.Tuple | ast.List):
        for item in target.elts:
            yield from _target_names(item)
    elif isinstance(target, ast.Starred):
        yield from _target_names(target.value)
