"""From a folder that a candidate filled to a program that may be run."""

from pathlib import Path

import torch

from .graph import read_graph
from .program import Program
from .refused import malformed
from .tensors import read_all


def load(
    artifact_dir: Path,
    *,
    batch: int,
    seq_len: int,
    vocab_size: int,
    device: torch.device,
    artifact_bytes: int,
    memory_bytes: int,
) -> Program:
    """The artifact's program, for exactly (batch, seq_len) tokens of this vocabulary.

    Nothing of the candidate's is imported, unpickled or evaluated. Raises Refused, and nothing else, whatever the files
    hold.
    """
    graph = read_graph(artifact_dir)
    wanted = (batch, seq_len, vocab_size)
    if (graph.batch, graph.seq_len, graph.vocab_size) != wanted:
        raise malformed(
            "Shape",
            f"The model was traced for batch {graph.batch}, length {graph.seq_len} and {graph.vocab_size} tokens; it "
            f"is scored with batch {batch}, length {seq_len} and {vocab_size}: trace with the gate's sizes.",
        )
    tensors = read_all(artifact_dir, artifact_bytes, device)
    listed = {stored.name for stored in graph.tensors}
    if listed != tensors.keys():
        name = min(listed ^ tensors.keys())
        where = "not in weights.safetensors" if name in listed else "not in graph.json"
        raise malformed("Schema", f"The tensor {name} is {where}.")
    return Program(graph, tensors, device, memory_bytes)
