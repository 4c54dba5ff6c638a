"""`python -m autoresearch_trainer prepare`: makes a data set and prints where it is."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from . import build, demo, parts, published
from . import manifest as manifests
from .build import Recipe
from .corpus import assign_splits, read_text_files
from .errors import DataError
from .files import cache_root
from .manifest import Manifest

_EXIT_USAGE = 2


def main(argv: Sequence[str]) -> int:
    """Runs the command; 0, or 2 after a sentence on standard error. The last line of output is {"dataDir": …}.

    With --parts it is {"dataDir": …, "trainDir": …, "valDir": …}.
    """
    arguments = _parser().parse_args(argv)
    try:
        folder, manifest = _prepare_parts(arguments) if arguments.parts else _prepare(arguments)
    except DataError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return _EXIT_USAGE
    except KeyboardInterrupt:
        print("prepare: stopped; what was fetched is kept, and the same command continues.", file=sys.stderr)
        return 130
    _say(f"Licence of the text: {manifest.licence}.")
    places = {f"{part}Dir": str((folder / part).absolute()) for part in parts.PARTS} if arguments.parts else {}
    print(json.dumps({"dataDir": str(folder.absolute()), **places, "identity": manifest.identity}), flush=True)
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def _prepare_parts(arguments: argparse.Namespace) -> tuple[Path, Manifest]:
    """Both parts under --out, made or found there."""
    out: Path | None = arguments.out
    if out is None:
        raise DataError("--parts goes with --out: it names the folder, such as a mounted volume, that gets both parts")
    if (out / manifests.FILE_NAME).exists():
        raise DataError(f"{out} holds a whole data set: choose another --out for the parts of one")
    found = parts.present(out)
    if found is not None:
        _same_sizes(arguments, found, out)
        _say(f"{out} is there already and its hashes are right.")
        return out, found
    arguments.out = parts.whole_folder(out)
    _prepare(arguments)
    return out, parts.part(out)


def _same_sizes(arguments: argparse.Namespace, found: Manifest, out: Path) -> None:
    asked = {
        "--vocab-size": (arguments.vocab_size, found.vocab_size),
        "--max-seq-len": (arguments.max_seq_len, found.max_seq_len),
    }
    for option, (wanted, there) in asked.items():
        if wanted is not None and wanted != there:
            raise DataError(
                f"{out} holds another data set ({option} {there}, {wanted} was asked for): choose another --out"
            )


def _prepare(arguments: argparse.Namespace) -> tuple[Path, Manifest]:
    sizes = {"vocab_size": arguments.vocab_size, "max_seq_len": arguments.max_seq_len}
    given = {name: value for name, value in sizes.items() if value is not None}
    if arguments.shards is not None and not arguments.dataset:
        raise DataError("--shards goes with --dataset: the other corpora have no shards to choose from")
    if arguments.demo:
        return demo.prepare(arguments.out, _say, **given)
    if arguments.dataset:
        chosen = published.DATASETS[arguments.dataset]
        return published.prepare(chosen, arguments.out, _say, shards=arguments.shards, **given)
    documents = read_text_files(arguments.text)
    digest = hashlib.sha256()
    for document in documents:
        digest.update(f"{document.name}\0{hashlib.sha256(document.text.encode()).hexdigest()}\n".encode())
    recipe = Recipe(
        "text",
        "that of your own files",
        given.get("vocab_size", demo.VOCAB_SIZE),
        given.get("max_seq_len", demo.MAX_SEQ_LEN),
        demo.EVAL_BATCH,
        digest.hexdigest(),
    )
    folder = arguments.out or cache_root() / "data" / recipe.folder_name()
    return folder, build.prepare(assign_splits(documents), recipe, folder, _say)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m autoresearch_trainer prepare",
        description="Tokenises a corpus once into shards that trials are trained and scored on.",
    )
    corpus = parser.add_mutually_exclusive_group(required=True)
    corpus.add_argument("--demo", action="store_true", help="the text of Python's own library: no download, 3 seconds")
    corpus.add_argument("--dataset", choices=sorted(published.DATASETS), help="a published corpus, fetched over HTTP")
    corpus.add_argument("--text", nargs="+", type=Path, metavar="FILE", help="UTF-8 files or folders of your own")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to put it (default: the user's cache)")
    parser.add_argument(
        "--parts", action="store_true", help="write DIR/train for the gate and DIR/val for the judge, apart"
    )
    parser.add_argument("--shards", type=_positive, metavar="N", help="files of the data set to train on")
    parser.add_argument("--vocab-size", type=_positive, metavar="N", help="tokens of the tokenizer, 257 to 65536")
    parser.add_argument("--max-seq-len", type=_positive, metavar="N", help="tokens of a row when a model is scored")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value
