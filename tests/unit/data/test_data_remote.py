"""Fetching published corpora from a real HTTP server that misbehaves on request."""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from autoresearch_trainer.data import DataError, TokenSplit, cli, files, load, published
from autoresearch_trainer.data.remote import ATTEMPTS, Hub, RemoteFile


@dataclass
class Server:
    """Files of one repository; `faults[path]` is a list of faults, one used up by each request for that file."""

    repository: str
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    version: int = 1
    announced: dict[str, dict] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    base: str = ""

    def entry(self, path: str) -> dict:
        data = self.files[path]
        large = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}
        return {"type": "file", "path": path, "size": len(data), "lfs": large} | self.announced.get(path, {})


def handler_for(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Quiet: the tests look at `requests`."""

        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if "Content_Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            if self.path.startswith("/api/"):
                self.listing()
                return
            path = self.path.split("/resolve/main/", 1)[1]
            server.requests.append((path, self.headers.get("Range")))
            faults = server.faults.get(path, [])
            fault = faults.pop(0) if faults else ""
            data, etag = server.files.get(path, b""), f'"v{server.version}"'
            if path not in server.files:
                self.answer(404, b"")
                return
            if fault in ("503", "429", "403"):
                self.answer(int(fault), b"", Retry_After="7")
                return
            if fault == "changed":
                server.version += 1
                etag = f'"v{server.version}"'
            start = 0
            asked = self.headers.get("Range")
            if asked and self.headers.get("If-Range") == etag:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
            body = data[start:]
            headers = {"ETag": etag, "Content_Length": str(len(body))}
            if start:
                headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            if fault == "cut":
                body = body[: len(body) // 2]
                self.close_connection = True
            if fault == "damaged":
                body = body[:50] + b"!" + body[51:]
            self.answer(206 if start else 200, body, **headers)

        def listing(self) -> None:
            paths = sorted(server.files)
            page = int(self.path.rpartition("cursor=")[2]) if "cursor=" in self.path else 0
            entries = [server.entry(path) for path in paths[page * 2 : page * 2 + 2]]
            headers = {}
            if (page + 1) * 2 < len(paths):
                link = f"{server.base}/api/datasets/{server.repository}/tree/main?recursive=true&cursor={page + 1}"
                headers["Link"] = f'<{link}>; rel="next"'
            self.answer(200, json.dumps(entries).encode(), **headers)

    return Handler


@pytest.fixture
def serve() -> Iterator[Callable[[str], Server]]:
    running = []

    def start(repository: str) -> Server:
        server = Server(repository)
        http = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(server))
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        running.append(http)
        server.base = f"http://127.0.0.1:{http.server_address[1]}"
        return server

    yield start
    for http in running:
        http.shutdown()
        http.server_close()


def parquet(texts: list[str], folder: Path) -> bytes:
    path = folder / "shard.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, compression="zstd", row_group_size=64)
    return path.read_bytes()


def story(number: int, words: int = 60) -> str:
    return " ".join(hashlib.sha256(f"{number} {i}".encode()).hexdigest()[:4] for i in range(words)) + ".\n"


@pytest.fixture
def one(serve: Callable[[str], Server], tmp_path: Path) -> Server:
    server = serve("some/set")
    server.files["a.parquet"] = parquet([story(i) for i in range(200)], tmp_path)
    return server


def fetch(server: Server, folder: Path, waits: list[float] | None = None) -> tuple[list[Path], list[str]]:
    said: list[str] = []
    waits = [] if waits is None else waits
    with Hub(said.append, base=server.base, sleep=waits.append) as hub:
        return hub.fetch(hub.files(server.repository), folder), said


def test_a_file_is_fetched_once(one: Server, tmp_path: Path) -> None:
    (path,), _ = fetch(one, tmp_path / "d")
    assert path.read_bytes() == one.files["a.parquet"]
    fetch(one, tmp_path / "d")
    assert len(one.requests) == 1
    assert [found.name for found in (tmp_path / "d").iterdir()] == ["a.parquet"]


def test_a_busy_server_is_asked_again_when_it_said_so(one: Server, tmp_path: Path) -> None:
    one.faults["a.parquet"] = ["503", "429"]
    waits: list[float] = []
    (path,), _ = fetch(one, tmp_path / "d", waits)
    assert path.read_bytes() == one.files["a.parquet"]
    assert waits == [7.0, 7.0]


def test_a_server_that_stays_busy_is_given_up_with_a_sentence(one: Server, tmp_path: Path) -> None:
    one.faults["a.parquet"] = ["503"] * 99
    with pytest.raises(DataError, match=f"503; given up after {ATTEMPTS} tries"):
        fetch(one, tmp_path / "d")
    assert len(one.requests) == ATTEMPTS


def test_a_cut_connection_continues_where_it_ended(one: Server, tmp_path: Path) -> None:
    one.faults["a.parquet"] = ["cut", "cut"]
    (path,), _ = fetch(one, tmp_path / "d")
    size = len(one.files["a.parquet"])
    assert path.read_bytes() == one.files["a.parquet"]
    assert [asked for _, asked in one.requests] == [
        None,
        f"bytes={size // 2}-",
        f"bytes={size // 2 + (size - size // 2) // 2}-",
    ]


def test_a_download_of_an_earlier_run_is_continued(one: Server, tmp_path: Path) -> None:
    one.faults["a.parquet"] = ["cut"] + ["503"] * ATTEMPTS
    with pytest.raises(DataError, match="run the same command again"):
        fetch(one, tmp_path / "d")
    one.faults.clear()
    (path,), _ = fetch(one, tmp_path / "d")
    assert path.read_bytes() == one.files["a.parquet"]
    assert one.requests[-1][1] == f"bytes={len(path.read_bytes()) // 2}-"


def test_a_file_that_changed_on_the_server_is_never_joined_from_two_versions(one: Server, tmp_path: Path) -> None:
    one.faults["a.parquet"] = ["cut", "changed"]
    (path,), said = fetch(one, tmp_path / "d")
    assert path.read_bytes() == one.files["a.parquet"]
    assert any("changed on the server" in line for line in said)


def test_damage_on_the_way_is_noticed_and_mended_by_a_fresh_copy(one: Server, tmp_path: Path) -> None:
    one.faults["a.parquet"] = ["damaged"]
    (path,), said = fetch(one, tmp_path / "d")
    assert path.read_bytes() == one.files["a.parquet"]
    assert any("SHA-256" in line and "fetching it again" in line for line in said)


@pytest.mark.parametrize(
    ("announced", "sentence"),
    [
        ({"lfs": {"oid": "ab" * 32, "size": 0}}, "bytes came, and 0 were announced"),
        ({"lfs": {"oid": "ab" * 32}}, "the SHA-256 is"),
    ],
)
def test_a_copy_that_is_wrong_twice_is_refused(one: Server, tmp_path: Path, announced: dict, sentence: str) -> None:
    large = announced["lfs"] | (
        {"size": len(one.files["a.parquet"])} if "size" not in announced["lfs"] else {"size": 100}
    )
    one.announced["a.parquet"] = {"lfs": large}
    with pytest.raises(DataError, match=sentence.replace(" 0 ", " 100 ")):
        fetch(one, tmp_path / "d")
    assert list((tmp_path / "d").iterdir()) == []


def test_a_page_of_html_in_place_of_a_shard_is_refused(one: Server, tmp_path: Path) -> None:
    one.files["a.parquet"] = b"<html>please log in</html>"
    one.announced["a.parquet"] = {"lfs": None}
    with pytest.raises(DataError, match="not a whole parquet file"):
        fetch(one, tmp_path / "d")


def test_a_file_that_is_refused_is_not_asked_for_again(one: Server, tmp_path: Path) -> None:
    one.faults["a.parquet"] = ["403"]
    with pytest.raises(DataError, match="403; access is refused"):
        fetch(one, tmp_path / "d")
    assert len(one.requests) == 1


def test_a_disk_that_is_too_small_is_noticed_before_the_first_byte(
    one: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: files.shutil._ntuple_diskusage(1000, 1000, 0))
    with pytest.raises(DataError, match="free some space, or choose another place"):
        fetch(one, tmp_path / "d")
    assert one.requests == []


def test_a_listing_that_points_outside_is_refused(one: Server, tmp_path: Path) -> None:
    one.announced["a.parquet"] = {"path": "../../escape.parquet"}
    with pytest.raises(DataError, match="a path outside the data set"):
        fetch(one, tmp_path / "d")


def test_climbmix_is_prepared_from_its_first_shards_and_its_last(
    serve: Callable[[str], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(published.CLIMBMIX.repository)
    for shard in range(5):
        texts = [story(1000 * shard + i) for i in range(150)]
        server.files[f"shard_{shard:05d}.parquet"] = parquet(texts, tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", server.base)
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    command = ["--dataset", "climbmix", "--shards", "2", "--vocab-size", "300", "--max-seq-len", "64"]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "CC BY-NC 4.0" in out
    folder = Path(json.loads(out.splitlines()[-1])["dataDir"])
    assert Counter(path for path, _ in server.requests) == {f"shard_{i:05d}.parquet": 1 for i in (0, 1, 4)}
    documents = {
        split: len(TokenSplit(folder, split, verify=True).document_starts(load(folder).vocab_size - 1))
        for split in ("train", "val", "test")
    }
    assert documents == {"train": 300, "val": 75, "test": 75}
    assert cli.main(command) == 0
    assert len(server.requests) == 3


def test_tinystories_holds_out_its_first_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stories.parquet"
    path.write_bytes(parquet([story(i) for i in range(40)], tmp_path))
    small = published.Published("s", "r/s", "l", 300, 16, 4, 1, held_out_rows=10)
    corpus = published.ParquetCorpus(small, [path], [])
    rows = {split: [int(d.name.split("#")[1]) for d in corpus.documents(split)] for split in ("test", "val", "train")}
    assert rows == {"test": list(range(10)), "val": list(range(10, 20)), "train": list(range(20, 40))}


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    data = bytearray(parquet([story(i) for i in range(40)], tmp_path))
    data[20:300] = bytes(280)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"bad.parquet is damaged"):
        list(published.read_parquet([path]))


def test_a_set_with_one_file_cannot_hold_one_out() -> None:
    with pytest.raises(DataError, match="too few to train on"):
        published.choose_files(published.CLIMBMIX, [RemoteFile("r", "a.parquet", 1, None)], None)
