"""Data sets: corpora, tokenizer, token shards, manifest. `prepare` makes them; gate and judge read them."""

from .errors import DataError
from .manifest import Manifest, load
from .shards import TokenSplit, token_bytes

__all__ = ["DataError", "Manifest", "TokenSplit", "load", "token_bytes"]
