"""graph.json, version 1: what it says and how it is checked.

    {"version": 1, "batch": B, "seqLen": T, "vocabSize": V,
     "tensors": [{"name": "wte.weight", "kind": "parameter" | "buffer" | "constant"}, …],
     "nodes": [{"op": "aten.linear.default", "args": {"input": {"tensor": 5}, "bias": null}, "results": 1}, …],
     "output": 17}

Values have numbers: 0 is the (B, T) int64 tokens, then come the tensors, then the results of the nodes in order. A node
may refer to lower numbers only, so there are no cycles and no names to forge. Arguments are named as in the operator's
schema; {"tensor": n}, {"dtype": "float32"} and {"float": "-inf"} are what plain JSON has no word for. There is no
autocast in it: the writer turns the casts that autocast makes into nodes of their own.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..receiver import GRAPH_FILE, MAX_GRAPH_BYTES
from . import strictjson
from .files import open_regular, read
from .operators import MAX_RESULTS, Operator, argument, forbidden_use, lookup
from .refused import OPERATOR_NOT_ALLOWED, Refused, malformed, quoted
from .strictjson import items, only, whole
from .tensors import MAX_TENSORS, NAME

VERSION = 1
FILE_NAME, MAX_BYTES = GRAPH_FILE, MAX_GRAPH_BYTES
MAX_NODES = 50_000
KINDS = ("parameter", "buffer", "constant")
_OPERATOR_NAME = re.compile(r".{1,200}", re.DOTALL)


@dataclass(frozen=True)
class Stored:
    """One tensor of weights.safetensors."""

    name: str
    kind: str


@dataclass(frozen=True)
class Node:
    """One call. `first` is the number of its first result."""

    operator: Operator
    arguments: dict[str, Any]
    first: int
    results: int


@dataclass(frozen=True)
class Graph:
    """A checked program; nothing of it has been run."""

    batch: int
    seq_len: int
    vocab_size: int
    tensors: tuple[Stored, ...]
    nodes: tuple[Node, ...]
    output: int
    values: int
    """How many values there are in all."""


def read_graph(folder: Path) -> Graph:
    """The graph of the artifact in folder. Raises Refused."""
    with open_regular(folder, FILE_NAME, MAX_BYTES) as (descriptor, size):
        return parse(read(descriptor, size, 0, FILE_NAME))


def parse(data: bytes) -> Graph:
    """The graph in a document of at most MAX_BYTES. Raises Refused, and runs no operator."""
    if len(data) > MAX_BYTES:
        raise malformed("TooLarge", f"{FILE_NAME}: {len(data)} bytes; the most is {MAX_BYTES}.")
    document = strictjson.parse(data, FILE_NAME)
    if isinstance(document, dict) and document.get("version") != VERSION:
        raise malformed(
            "Version", f"{FILE_NAME}: version {quoted(document.get('version'))}; this judge reads {VERSION}."
        )
    fields = only(document, {"version", "batch", "seqLen", "vocabSize", "tensors", "nodes", "output"}, FILE_NAME)
    listed = items(fields["tensors"], MAX_TENSORS, "tensors")
    tensors = tuple(_stored(entry, f"tensors[{i}]") for i, entry in enumerate(listed))
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise malformed("DuplicateKey", f"{FILE_NAME}: one tensor is listed twice.")
    known = 1 + len(tensors)
    nodes = []
    for i, entry in enumerate(items(fields["nodes"], MAX_NODES, "nodes")):
        node = _node(entry, known, f"{FILE_NAME}: nodes[{i}]")
        nodes.append(node)
        known += node.results
    return Graph(
        batch=whole(fields["batch"], 1, 1 << 24, "batch"),
        seq_len=whole(fields["seqLen"], 1, 1 << 24, "seqLen"),
        vocab_size=whole(fields["vocabSize"], 1, 1 << 24, "vocabSize"),
        tensors=tensors,
        nodes=tuple(nodes),
        output=whole(fields["output"], 0, known - 1, "output"),
        values=known,
    )


def _stored(value: Any, where: str) -> Stored:
    fields = only(value, {"name", "kind"}, where)
    if fields["kind"] not in KINDS:
        raise malformed("Schema", f"{where}: kind {quoted(fields['kind'])} is not one of {', '.join(KINDS)}.")
    return Stored(strictjson.text(fields["name"], NAME, where), fields["kind"])


def _node(value: Any, known: int, where: str) -> Node:
    fields = only(value, {"op", "args", "results"}, where)
    operator = lookup(strictjson.text(fields["op"], _OPERATOR_NAME, where))
    given = fields["args"]
    if not isinstance(given, dict):
        raise malformed("Schema", f"{where}: args must be an object.")
    arguments = {name: argument(operator, name, item, known, where) for name, item in given.items()}
    missing = sorted(operator.required - arguments.keys())
    if missing:
        raise malformed("Argument", f"{where}: {operator.name} needs {missing[0]}.")
    problem = forbidden_use(operator, arguments)
    if problem:
        raise Refused(OPERATOR_NOT_ALLOWED, "Argument", f"{where}: {operator.name}: {problem}.")
    results = whole(fields["results"], 1, MAX_RESULTS, f"{where}: results")
    if not operator.lists_result and results != operator.results:
        raise malformed("Schema", f"{where}: {operator.name} gives {operator.results} tensors, not {results}.")
    return Node(operator, arguments, known, results)
