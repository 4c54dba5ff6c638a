"""`autoresearch::attention`: what a fused attention kernel computes, as one named operator.

A candidate that trains with a kernel of its own wraps it for export: in eval mode it calls
`torch.ops.autoresearch.attention(q, k, v, causal, window, scale)` instead of the kernel. The judge computes that with
torch's scaled_dot_product_attention, so no foreign kernel is ever loaded.
"""

from functools import cache

import torch
import torch.nn.functional as F

_SCHEMA = "attention(Tensor q, Tensor k, Tensor v, bool causal, int window=-1, float? scale=None) -> Tensor"
_library: list[torch.library.Library] = []


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool,
    window: int = -1,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention in the layout of fused kernels: q (B, T, H, D), k and v (B, T, G, D) with G dividing H; (B, T, H, D)
    out.

    A query sees keys at most `window` positions before it (and, unless causal, after it); -1 is no limit. `scale`
    defaults to D ** -0.5.
    """
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    grouped = q.shape[1] != k.shape[1]
    length = q.shape[2]
    if window < 0 or window >= length:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=grouped)
    else:
        position = torch.arange(length, device=q.device)
        distance = position[:, None] - position[None, :]
        seen = (distance <= window) & (distance >= (0 if causal else -window))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=grouped)
    return out.transpose(1, 2)


@cache
def define() -> None:
    """Registers the operator with torch, once a process; it can then be called, differentiated and exported."""
    library = torch.library.Library("autoresearch", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch has no types here
    library.define(_SCHEMA)  # type: ignore[no-untyped-call]  # torch has no types here
    library.impl("attention", attention, "CompositeImplicitAutograd")  # type: ignore[no-untyped-call]  # as above
    _library.append(library)  # a library that is collected takes its operators with it
