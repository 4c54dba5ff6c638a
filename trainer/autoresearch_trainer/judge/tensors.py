"""weights.safetensors: the header checked by us, then each tensor read into memory of its own."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..receiver import WEIGHTS_FILE
from . import strictjson
from .files import open_regular, read, read_into
from .refused import malformed, quoted

FILE_NAME = WEIGHTS_FILE
MAX_HEADER_BYTES = 8 << 20
MAX_TENSORS = 1 << 16
MAX_DIMENSIONS = 12
NAME = re.compile(r"[A-Za-z0-9_.\-]{1,200}")

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of the format; complex numbers are written as pairs."""


@dataclass(frozen=True)
class Entry:
    """One tensor of the file: little-endian, row-major, bytes begin..end of the data part."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def parse_header(data: bytes, data_bytes: int) -> dict[str, Entry]:
    """The tensors that a header lists, which must cover the data part of data_bytes without gap or overlap.

    Raises Refused.
    """
    document = strictjson.parse(data, FILE_NAME)
    if not isinstance(document, dict):
        raise malformed("Schema", f"{FILE_NAME}: the header is not an object.")
    document.pop("__metadata__", None)
    if len(document) > MAX_TENSORS:
        raise malformed("Schema", f"{FILE_NAME}: {len(document)} tensors; the most is {MAX_TENSORS}.")
    entries = {
        strictjson.text(name, NAME, FILE_NAME): _entry(value, f"{FILE_NAME}: {quoted(name)}", data_bytes)
        for name, value in document.items()
    }
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            what = "overlaps another tensor" if entry.begin < position else "leaves a gap before it"
            raise malformed("Offsets", f"{FILE_NAME}: {name} {what} (bytes {entry.begin}..{entry.end}).")
        position = entry.end
    if position != data_bytes:
        raise malformed("Offsets", f"{FILE_NAME}: the tensors end at byte {position} of {data_bytes}.")
    return entries


def _entry(value: Any, where: str, data_bytes: int) -> Entry:
    fields = strictjson.only(value, {"dtype", "shape", "data_offsets"}, where)
    name = fields["dtype"]
    dtype = DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None:
        raise malformed("DType", f"{where}: the element type {quoted(name)} is not one of {', '.join(DTYPES)}.")
    shape = tuple(
        strictjson.whole(size, 0, data_bytes, f"{where}: shape")
        for size in strictjson.items(fields["shape"], MAX_DIMENSIONS, f"{where}: shape")
    )
    offsets = strictjson.items(fields["data_offsets"], 2, f"{where}: data_offsets")
    if len(offsets) != 2:
        raise malformed("Offsets", f"{where}: data_offsets must hold two numbers.")
    begin, end = (strictjson.whole(offset, 0, data_bytes, f"{where}: data_offsets") for offset in offsets)
    wanted = dtype.itemsize
    for size in shape:  # Python's integers do not overflow, so neither does this product
        wanted *= size
    if end - begin != wanted:
        raise malformed("Offsets", f"{where}: {end - begin} bytes for a shape that takes {wanted}.")
    return Entry(dtype, shape, begin, end)


def read_all(folder: Path, max_bytes: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Every tensor of the artifact in folder, by name, each in fresh memory of `device`. Raises Refused.

    Fresh memory because torch aligns it as it does for a model made by hand: kernels choose their path by alignment,
    and a score must not depend on where in a file a weight lay.
    """
    with open_regular(folder, FILE_NAME, max_bytes) as (descriptor, size):
        if size < 8:
            raise malformed("File", f"{FILE_NAME}: {size} bytes are too few for a header.")
        length = int.from_bytes(read(descriptor, 8, 0, FILE_NAME), "little")
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise malformed("File", f"{FILE_NAME}: a header of {length} bytes; the most is {MAX_HEADER_BYTES}.")
        start = 8 + length
        entries = parse_header(read(descriptor, length, 8, FILE_NAME), size - start)
        tensors: dict[str, torch.Tensor] = {}
        for name, entry in entries.items():
            tensor = torch.empty(entry.shape, dtype=entry.dtype)
            if entry.end > entry.begin:
                raw = memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data)
                read_into(descriptor, raw, start + entry.begin, f"{FILE_NAME}: {name}")
                if entry.dtype == torch.bool and int(tensor.view(torch.uint8).max()) > 1:
                    raise malformed("Bool", f"{FILE_NAME}: {name} holds bytes that are neither true nor false.")
            tensors[name] = tensor.to(device)
        return tensors
