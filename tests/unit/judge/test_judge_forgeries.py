"""Artifacts that no honest writer makes: each is refused with a reason and a sentence, and nothing of it runs."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from autoresearch_trainer import artifact
from autoresearch_trainer.judge.graph import parse
from autoresearch_trainer.judge.loader import load
from autoresearch_trainer.judge.refused import Refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judgemodels import BATCH, GPT, LENGTH, VOCAB
from safetensors import safe_open

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("honest")
    receiver = artifact.Receiver(folder)
    artifact.trace(GPT("plain"), BATCH, LENGTH, VOCAB).write(receiver)
    receiver.close()
    return folder


@pytest.fixture
def forged(honest: Path, tmp_path: Path) -> Path:
    """A copy of an honest artifact to spoil."""
    folder = tmp_path / "forged"
    folder.mkdir()
    for file in honest.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def refusal(folder: Path, memory_bytes: int = 1 << 28) -> Refused:
    with pytest.raises(Refused) as caught:
        load(
            folder,
            batch=BATCH,
            seq_len=LENGTH,
            vocab_size=VOCAB,
            device=torch.device("cpu"),
            artifact_bytes=1 << 24,
            memory_bytes=memory_bytes,
        )
    return caught.value


def edit(folder: Path, change: Edit) -> None:
    document = json.loads((folder / "graph.json").read_bytes())
    change(document)
    (folder / "graph.json").write_text(json.dumps(document))


def add_node(op: str, arguments: dict[str, Any], results: int = 1) -> Edit:
    """Puts a node at the end and makes it the output."""

    def change(document: dict[str, Any]) -> None:
        document["nodes"].append({"op": op, "args": arguments, "results": results})
        document["output"] = len(document["tensors"]) + sum(node["results"] for node in document["nodes"])

    return change


TOKENS = {"tensor": 0}
FORBIDDEN = {
    "reads a file": ("aten.from_file.default", {"filename": "/etc/hostname", "size": 3}),
    "random": ("aten.rand.default", {"size": [3]}),
    "random like": ("aten.randn_like.default", {"self": TOKENS}),
    "bernoulli": ("aten.bernoulli.default", {"self": TOKENS}),
    "dropout": ("aten.dropout.default", {"input": TOKENS, "p": 0.5, "train": True}),
    "old memory": ("aten.empty.memory_format", {"size": [3]}),
    "outside": ("aten.as_strided.default", {"self": TOKENS, "size": [9], "stride": [10**9]}),
    "in place": ("aten.add_.Tensor", {"self": TOKENS, "other": TOKENS}),
    "set_": ("aten.set_.source_Tensor", {"self": TOKENS, "source": TOKENS}),
    "resize": ("aten.resize_.default", {"self": TOKENS, "size": [10**9]}),
    "item": ("aten._local_scalar_dense.default", {"self": TOKENS}),
    "nonzero": ("aten.nonzero.default", {"self": TOKENS}),
    "dunder": ("aten.add.__class__", {}),
    "attribute": ("aten.__class__.__init__", {}),
    "dots": ("aten.add.Tensor.__globals__", {}),
    "namespace": ("prims.device_put.default", {}),
    "python": ("builtins.eval.default", {}),
    "higher order": ("higher_order.cond.default", {}),
    "unicode": ("aten.\uff41dd.Tensor", {}),
    "newline": ("aten.add.Tensor\n", {}),
    "print": ("aten._print.default", {"s": "hello"}),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_an_operator_off_the_list_is_named_and_not_run(name: str, forged: Path) -> None:
    op, arguments = FORBIDDEN[name]
    edit(forged, add_node(op, arguments))
    found = refusal(forged)
    assert found.reason == "OperatorNotAllowed"
    assert ascii(op)[:50] in found.message


def test_random_numbers_through_an_allowed_operator_are_refused(forged: Path) -> None:
    pieces = {name: {"tensor": 0} for name in ("query", "key", "value")}
    edit(forged, add_node("aten.scaled_dot_product_attention.default", pieces | {"dropout_p": 0.5}))
    assert refusal(forged).reason == "OperatorNotAllowed"


def huge(document: dict[str, Any]) -> None:
    add_node("aten.expand.default", {"self": {"tensor": 0}, "size": [10**6, BATCH, LENGTH]})(document)


def first_node(**changes: Any) -> Edit:
    return lambda document: document["nodes"][0].update(changes)


MALFORMED: dict[str, tuple[Edit, str]] = {
    "expands to 10^12": (add_node("aten.expand.default", {"self": TOKENS, "size": [10**10, 8, 32]}), "TooLarge"),
    "splits into 10^9": (add_node("aten.unbind.int", {"self": {"tensor": 0}, "dim": 1}, 33), "Schema"),
    "forward reference": (first_node(args={"weight": {"tensor": 99}, "indices": TOKENS}), "Argument"),
    "refers to itself": (lambda d: first_node(args={"weight": {"tensor": len(d["tensors"]) + 1}})(d), "Argument"),
    "negative reference": (first_node(args={"weight": {"tensor": -1}, "indices": TOKENS}), "Argument"),
    "boolean reference": (first_node(args={"weight": {"tensor": True}, "indices": TOKENS}), "Argument"),
    "size as code": (add_node("aten.view.default", {"self": TOKENS, "size": ["__import__('os').abort()"]}), "Argument"),
    "size as symbol": (add_node("aten.view.default", {"self": TOKENS, "size": [{"as_expr": "s0"}]}), "Argument"),
    "device": (add_node("aten.zeros.default", {"size": [1], "device": "cuda:7"}), "Argument"),
    "unknown argument": (first_node(args={"weights": TOKENS}), "Argument"),
    "missing argument": (first_node(args={"weight": {"tensor": 1}}), "Argument"),
    "wrong type": (first_node(args={"weight": "wte", "indices": TOKENS}), "Argument"),
    "huge dimension": (add_node("aten.select.int", {"self": TOKENS, "dim": 0, "index": 1 << 62}), "Argument"),
    "too many results": (first_node(results=5000), "Schema"),
    "two results of one": (first_node(results=2), "Schema"),
    "operator is a list": (first_node(op=["aten.add.Tensor"]), "Schema"),
    "output beyond": (lambda d: d.update(output=10**6), "Schema"),
    "output is a list": (lambda d: d.update(output=[1, 2]), "Schema"),
    "output is the tokens": (lambda d: d.update(output=0), "Output"),
    "output is a weight": (lambda d: d.update(output=1), "Output"),
    "wrong vocabulary": (lambda d: d.update(vocabSize=VOCAB - 1), "Shape"),
    "wrong batch": (lambda d: d.update(batch=1), "Shape"),
    "wrong version": (lambda d: d.update(version=2), "Version"),
    "extra field": (lambda d: d.update(code="import os"), "Schema"),
    "path as name": (lambda d: d["tensors"][0].update(name="../../etc/passwd"), "Schema"),
    "unicode name": (lambda d: d["tensors"][0].update(name="w\u202ee"), "Schema"),
    "same name twice": (lambda d: d["tensors"].append(d["tensors"][0]), "DuplicateKey"),
    "unknown tensor": (lambda d: d["tensors"][0].update(name="other"), "Schema"),
    "unknown kind": (lambda d: d["tensors"][0].update(kind="pickle"), "Schema"),
    "wrong shapes": (add_node("aten.matmul.default", {"self": {"tensor": 0}, "other": {"tensor": 0}}), "RuntimeError"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_graph_that_our_writer_never_writes_is_refused(name: str, forged: Path) -> None:
    change, detail = MALFORMED[name]
    edit(forged, change)
    found = refusal(forged)
    assert (found.reason, found.detail) == ("ArtifactRefused", detail), found.message
    assert found.message.isprintable()


def test_a_value_too_large_for_memory_is_told_before_anything_is_allocated(forged: Path) -> None:
    edit(forged, add_node("aten.zeros.default", {"size": [1 << 15, 1 << 15]}))
    assert refusal(forged).reason == "HostOutOfMemory"


TEXTS = {
    "deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "twice": b'{"version":1,"version":1}',
    "NaN": b'{"version":NaN}',
    "infinite": b'{"version":1e999}',
    "a long number": b'{"version":' + b"9" * 100_000 + b"}",
    "not UTF-8": b'{"version":"\xff"}',
    "no JSON": b"import os",
    "an open string": b'{"version":"' + b'\\"' * 100_000,
    "pickle": pickle.dumps({"version": 1}),
    "a list": b"[]",
    "nothing": b"",
    "many nodes": b'{"version":1,"batch":8,"seqLen":32,"vocabSize":300,"tensors":[],"output":0,"nodes":['
    + b"0," * 60_000
    + b"0]}",
}


@pytest.mark.parametrize("name", TEXTS)
def test_hostile_json_is_refused(name: str, forged: Path) -> None:
    (forged / "graph.json").write_bytes(TEXTS[name])
    assert refusal(forged).reason == "ArtifactRefused"


@pytest.mark.parametrize("file", ["graph.json", "weights.safetensors"])
@pytest.mark.parametrize("kind", ["symlink", "fifo", "folder", "missing", "sparse"])
def test_only_a_regular_file_of_bounded_size_is_read(kind: str, file: str, forged: Path) -> None:
    path = forged / file
    path.rename(forged / "real")
    if kind == "symlink":
        path.symlink_to(forged / "real")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        with path.open("wb") as stream:
            stream.truncate(100 * 10**9)
    found = refusal(forged)
    assert (found.reason, found.detail) == ("ArtifactRefused", "TooLarge" if kind == "sparse" else "File")


def weights(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def f32(shape: list[Any], begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


HEADERS = {
    "overlap": weights({"a": f32([2], 0, 8), "b": f32([2], 4, 12)}, b"0" * 12),
    "gap": weights({"a": f32([1], 0, 4), "b": f32([1], 8, 12)}, b"0" * 12),
    "out of bounds": weights({"a": f32([1 << 20], 0, 1 << 22)}, b"0" * 16),
    "rest": weights({"a": f32([1], 0, 4)}, b"0" * 64),
    "overflow": weights({"a": f32([1 << 32, 1 << 32], 0, 0)}),
    "negative": weights({"a": f32([-1, -1], 0, 4)}, b"0" * 4),
    "backwards": weights({"a": f32([1], 4, 0)}, b"0" * 4),
    "float shape": weights({"a": f32([1.0], 0, 4)}, b"0" * 4),
    "object dtype": weights({"a": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}}, b"0" * 8),
    "dtype is a list": weights({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, b"0" * 4),
    "names twice": weights(b'{"a":%b,"a":%b}' % ((json.dumps(f32([], 0, 4)).encode(),) * 2), b"0" * 4),
    "strange name": weights({"../a": f32([1], 0, 4)}, b"0" * 4),
    "header too long": struct.pack("<Q", 1 << 62) + b"{}",
    "header longer than the file": struct.pack("<Q", 100) + b"{}",
    "short": b"abc",
    "pickle": pickle.dumps([1, 2, 3]),
    "many dimensions": weights({"a": f32([1] * 64, 0, 4)}, b"0" * 4),
    "bad bool": weights({"a": {"dtype": "BOOL", "shape": [1], "data_offsets": [0, 1]}}, b"\x07"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_a_forged_safetensors_file_is_refused(name: str, forged: Path) -> None:
    (forged / "weights.safetensors").write_bytes(HEADERS[name])
    found = refusal(forged)
    assert found.reason == "ArtifactRefused"
    assert found.message.startswith(("weights.safetensors", "The tensor"))


def test_the_library_reads_what_we_write(honest: Path) -> None:
    model = GPT("plain")
    with safe_open(honest / "weights.safetensors", framework="pt") as file:
        assert set(file.keys()) <= set(model.state_dict()) | {
            "blocks.0.cos",
            "blocks.0.sin",
            "blocks.1.cos",
            "blocks.1.sin",
        }
        assert file.get_tensor("head.weight").shape == (VOCAB, 32)


@pytest.mark.parametrize("cut", [0, 5, 8, 100, -1])
def test_a_stream_that_ends_early_or_lies_about_lengths_is_no_artifact(cut: int, honest: Path, tmp_path: Path) -> None:
    graph, tensors = (honest / "graph.json").read_bytes(), (honest / "weights.safetensors").read_bytes()
    stream = struct.pack("<Q", len(graph)) + graph + tensors
    stream = struct.pack("<Q", 1 << 40) + stream if cut < 0 else stream[:cut]
    receiver = artifact.Receiver(tmp_path)
    with pytest.raises(ValueError, match="artifact"):
        receiver.write(stream)
        receiver.close()


def _positions(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict):
        for key, item in value.items():
            found += _positions(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += _positions(item, (*path, index))
    return found


HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 64), 1 << 64),
    st.integers(-3, 40),
    st.floats(),
    st.sampled_from(
        [
            "aten.relu.default",
            "aten.cat.default",
            "aten.split.Tensor",
            "aten.rand.default",
            "nan",
            "inf",
            "float32",
            "",
            "a",
        ]
    ),
    st.sampled_from(
        [{}, [], {"tensor": 0}, {"tensor": 3}, {"dtype": "int64"}, {"float": "-inf"}, [{"tensor": 1}] * 3, [[[]]]]
    ),
    st.text(max_size=5),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_change_to_a_graph_is_refused_with_a_sentence_or_still_a_pure_program(
    data: st.DataObject, honest: Path
) -> None:
    document = json.loads((honest / "graph.json").read_bytes())
    positions = _positions(document)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(positions))
        if not path:
            continue
        place: Any = document
        try:
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = data.draw(HOSTILE)
        except (TypeError, KeyError, IndexError):
            continue
    text = json.dumps(document).encode()
    try:
        graph = parse(text)
        empty = {stored.name: torch.empty(3, 32, device="meta") for stored in graph.tensors}
        from autoresearch_trainer.judge.program import Program

        Program(graph, empty, torch.device("meta"), 1 << 30)
    except Refused as found:
        assert found.reason in {"ArtifactRefused", "OperatorNotAllowed", "HostOutOfMemory"}
        assert found.message.isprintable()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        parse(data)
