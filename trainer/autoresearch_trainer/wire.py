"""The words that gate and client exchange over their one stream socket; neither side trusts the other's lengths.

A request is one byte and a fixed number of bytes after it; only an artifact is longer. An answer is one byte, OK, END
or ERROR; after ERROR comes a frame (little-endian uint32 length, then UTF-8) with the sentence for the person.

    hello    b"H"                     -> OK, frame of JSON (what `Hello` holds), frame of int16 token byte lengths
    layout   b"L" <u32 B> <u32 T>     -> OK, one byte layout number; a memfd comes with it (SCM_RIGHTS)
    batch    b"B" <u8 layout>         -> OK (the batch lies in the ring) or END (the budget is spent)
    log      b"G" <u64 step> <f64 loss>  no answer
    memory   b"V" <u64 allocated> <u64 reserved>  no answer; peak bytes on a device, the candidate's word
    artifact b"A" then frames, a frame of length 0 ends it -> OK

The ring behind a layout is a header of 64 bytes (RING_HEADER: progress, steps, slot) and two slots of (B, T+1) uint16
windows: inputs are columns 0..T-1, targets columns 1..T.
"""

import struct

VERSION = 1

GATE_FD_VARIABLE = "AUTORESEARCH_GATE_FD"
"""Names the descriptor of the connection, open before the candidate's first line runs."""

HELLO, LAYOUT, BATCH, LOG, MEMORY, ARTIFACT = b"H", b"L", b"B", b"G", b"V", b"A"
OK, END, ERROR = b"k", b"e", b"!"

LAYOUT_ARGUMENTS = struct.Struct("<II")
LOG_ARGUMENTS = struct.Struct("<Qd")
MEMORY_ARGUMENTS = struct.Struct("<QQ")
LENGTH = struct.Struct("<I")
RING_HEADER = struct.Struct("<dQQ")
RING_HEADER_BYTES = 64

MAX_BATCH_TOKENS = 1 << 20
"""Most tokens in one batch, and most tokens that the free batches may hold together."""
FREE_BATCHES = 2
"""Batches served before the clock starts: enough to compile and warm up, too few to learn from."""
MAX_LAYOUTS = 8
"""Distinct (B, T) that one trial may use; each keeps two batches of shared memory."""
MAX_FRAME_BYTES = 1 << 20
"""Longest frame either side accepts."""
ARTIFACT_CHUNK_BYTES = 1 << 18
"""Bytes the client sends in one frame of an artifact."""


def slot_bytes(batch: int, seq_len: int) -> int:
    """Bytes of one slot: (batch, seq_len + 1) uint16, rounded up to a cache line so that slots never share one."""
    return (batch * (seq_len + 1) * 2 + 63) // 64 * 64


def ring_bytes(batch: int, seq_len: int) -> int:
    """Bytes of a ring: header and two slots."""
    return RING_HEADER_BYTES + 2 * slot_bytes(batch, seq_len)


def layout_problem(batch: int, seq_len: int, max_seq_len: int) -> str | None:
    """Why (batch, seq_len) is refused, as a sentence; None when it is allowed."""
    if batch < 1 or seq_len < 1:
        return f"A batch of {batch} x {seq_len} tokens was asked for: both must be 1 or more."
    if seq_len > max_seq_len * 64:
        return f"A sequence length of {seq_len} was asked for: the longest is {max_seq_len * 64} (64 x MAX_SEQ_LEN)."
    if batch * seq_len > MAX_BATCH_TOKENS:
        return (
            f"A batch of {batch} x {seq_len} = {batch * seq_len} tokens was asked for: the most is {MAX_BATCH_TOKENS}; "
            "use a smaller micro-batch and accumulate gradients."
        )
    return None
