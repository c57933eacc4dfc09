"""FineWeb from a stand-in of the hub on the loopback interface: whole, cut off, corrupted, gone."""

import hashlib
import threading
import warnings
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from tensorlm.data import fineweb, load
from tensorlm.data.shards import read_shard, write_shard

constants = pytest.importorskip("huggingface_hub.constants")

PREFIX = f"/datasets/{fineweb.REPOSITORY}/resolve/main/"
TRAIN = "fineweb_train_000001.bin"
CHUNK = 1024


@dataclass
class Hub:
    """What the stand-in serves and how it misbehaves. Like the hub, it redirects to another server for the content."""

    files: dict[str, bytes]
    etags: dict[str, str]
    cut_after: int | None = None        # bytes of content after which connections break
    down: bool = False                  # content answers 503
    log: list[tuple[str, str, str]] = field(default_factory=list)
    address: str = ""                   # of the hub
    content: str = ""                   # of the server that it redirects to

    def asked(self, method, path):
        return [extra for verb, where, extra in self.log if verb == method and where.startswith(path)]


def handler_of(state):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, status, body=b"", length=None, **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self):
            state.log.append((self.command, self.path, self.headers.get("Range", "")))
            name = self.path.rpartition("/")[2]
            if name not in state.files:
                return self.answer(404, X_Error_Code="EntryNotFound")
            if self.path.startswith(PREFIX):
                return self.answer(302, Location=f"{state.content}/content/{name}", X_Repo_Commit="c" * 40,
                                   X_Linked_Etag=f'"{state.etags[name]}"', X_Linked_Size=str(len(state.files[name])))
            return self.content(state.files[name])

        do_GET = do_HEAD

        def content(self, body):
            if state.down:
                return self.answer(503)
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            rest, whole = body[start:], len(body)
            if state.cut_after is not None:
                self.answer(206 if start else 200, rest[:state.cut_after], length=len(rest))
                state.down, state.cut_after = True, None
                self.close_connection = True
                return None
            span = dict(Content_Range=f"bytes {start}-{whole - 1}/{whole}") if start else {}
            return self.answer(206 if start else 200, rest, **span)

    return Handler


def shard_bytes(folder, seed, count=5000, highest=50257):
    write_shard(folder / "draft.bin", np.random.default_rng(seed).integers(0, highest, count))
    return (folder / "draft.bin").read_bytes()


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    files = {name: shard_bytes(tmp_path, seed) for seed, name in enumerate(
        ("fineweb_val_000000.bin", TRAIN, "fineweb_train_000002.bin"))}
    state = Hub(files, {name: hashlib.sha256(body).hexdigest() for name, body in files.items()})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler_of(state)) for _ in range(2)]
    state.address, state.content = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    yield state
    for server, thread in zip(servers, threads):
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def partials(cache):
    return list(cache.glob("*.partial"))


def test_the_first_shards_become_a_corpus(stand_in, cache):
    data = load("fineweb", shards=2, cache=cache, endpoint=stand_in.address, valid_tokens=1000)
    assert [len(part) for part in data.train] == [5000, 5000] and [len(part) for part in data.valid] == [1000]
    assert np.array_equal(data.train[0], read_shard(cache / TRAIN)) and data.vocab_size == 50257
    assert (cache / TRAIN).read_bytes() == stand_in.files[TRAIN] and not partials(cache)
    assert data.describe().startswith("fineweb: 10,000 training and 1,000 validation tokens, tokenizer gpt2")


def test_a_second_opening_needs_no_network(stand_in, cache):
    first = load("fineweb", cache=cache, endpoint=stand_in.address)
    asked = len(stand_in.log)
    again = load("fineweb", cache=cache, endpoint="http://127.0.0.1:9")
    assert again.sha256 == first.sha256 and len(stand_in.log) == asked
    assert not stand_in.asked("GET", f"{PREFIX}fineweb_train_000002")


def test_a_download_that_broke_off_goes_on_where_it_stopped(stand_in, cache):
    stand_in.cut_after = 4 * CHUNK + 100
    with pytest.raises(ConnectionError, match=f"(?s){TRAIN} was not fetched .*run again"):
        load("fineweb", cache=cache, endpoint=stand_in.address)
    (partial,) = partials(cache)
    have = partial.stat().st_size
    assert 0 < have <= 4 * CHUNK + 100 and partial.read_bytes() == stand_in.files[TRAIN][:have]
    assert not (cache / TRAIN).exists()
    stand_in.down = False
    stand_in.log.clear()
    load("fineweb", cache=cache, endpoint=stand_in.address)
    assert stand_in.asked("GET", f"/content/{TRAIN}") == [f"bytes={have}-"]
    assert (cache / TRAIN).read_bytes() == stand_in.files[TRAIN] and not partials(cache)


def test_a_partial_that_is_whole_already_is_not_fetched_again(stand_in, cache):
    cache.mkdir()
    (cache / f"{TRAIN}.{stand_in.etags[TRAIN][:16]}.partial").write_bytes(stand_in.files[TRAIN])
    fineweb.fetch(TRAIN, cache, stand_in.address)
    assert not stand_in.asked("GET", f"/content/{TRAIN}")


@pytest.mark.parametrize("wrong", [b"x" * 3000, b"x" * 20_000], ids=["shorter", "longer than the file"])
def test_a_partial_with_wrong_bytes_is_refused_or_dropped(stand_in, cache, wrong):
    cache.mkdir()
    (cache / f"{TRAIN}.{stand_in.etags[TRAIN][:16]}.partial").write_bytes(wrong)
    if len(wrong) < len(stand_in.files[TRAIN]):
        with pytest.raises(ValueError, match="corrupted download was refused"):
            fineweb.fetch(TRAIN, cache, stand_in.address)
        assert not partials(cache) and not (cache / TRAIN).exists()
    assert fineweb.fetch(TRAIN, cache, stand_in.address) == stand_in.etags[TRAIN]
    assert (cache / TRAIN).read_bytes() == stand_in.files[TRAIN]


def test_a_partial_of_another_version_is_left_alone(stand_in, cache):
    cache.mkdir()
    other = cache / f"{TRAIN}.{'0' * 16}.partial"
    other.write_bytes(b"other version")
    fineweb.fetch(TRAIN, cache, stand_in.address)
    assert not any("bytes=" in extra for extra in stand_in.asked("GET", "/content/"))
    assert (cache / TRAIN).read_bytes() == stand_in.files[TRAIN]


def test_a_corrupted_download_is_refused(stand_in, cache):
    body = stand_in.files[TRAIN]
    stand_in.files[TRAIN] = body[:5000] + bytes([body[5000] ^ 1]) + body[5001:]         # the digest is the true one's
    with pytest.raises(ValueError, match=f"refused and deleted, run again .*the hub says {stand_in.etags[TRAIN][:12]}"):
        load("fineweb", cache=cache, endpoint=stand_in.address)
    assert not partials(cache) and not (cache / TRAIN).exists()
    stand_in.files[TRAIN] = body
    assert len(load("fineweb", cache=cache, endpoint=stand_in.address).train[0]) == 5000


def test_a_file_that_is_no_shard_is_refused_whatever_its_digest(stand_in, cache, tmp_path):
    for body, message in ((b"<html>sign in</html>" * 100, "magic number"), (stand_in.files[TRAIN][:-2], "truncated"),
                          (shard_bytes(tmp_path, 0, highest=60_000), "outside the 50257 entries")):
        for etag in (hashlib.sha256(body).hexdigest(), "a1b2c3"):                       # the hub's own small-file ETag
            stand_in.files[TRAIN], stand_in.etags[TRAIN] = body, etag
            with pytest.raises(ValueError, match=message):
                fineweb.fetch(TRAIN, cache, stand_in.address)
            assert not (cache / TRAIN).exists() and not partials(cache)


def test_without_a_digest_the_header_decides(stand_in, cache):
    stand_in.etags[TRAIN] = "a1b2c3"
    assert fineweb.fetch(TRAIN, cache, stand_in.address) == hashlib.sha256(stand_in.files[TRAIN]).hexdigest()


@pytest.mark.parametrize("damage", ["flip", "cut", "no note"])
def test_a_cached_file_damaged_since_is_fetched_again(stand_in, cache, damage):
    fineweb.fetch(TRAIN, cache, stand_in.address)
    path, body = cache / TRAIN, stand_in.files[TRAIN]
    if damage == "no note":
        fineweb.digest_note(path).unlink()
    else:
        path.write_bytes(body[:-2] if damage == "cut" else body[:-1] + bytes([body[-1] ^ 1]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fineweb.fetch(TRAIN, cache, stand_in.address)
    assert path.read_bytes() == body and len(stand_in.asked("GET", f"/content/{TRAIN}")) == 2
    assert any("damaged" in str(warning.message) for warning in caught) == (damage != "no note")


def test_processes_wait_for_one_download(stand_in, cache):
    digests = []
    threads = [threading.Thread(target=lambda: digests.append(fineweb.fetch(TRAIN, cache, stand_in.address)))
               for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digests == [stand_in.etags[TRAIN]] * 4 and len(stand_in.asked("GET", f"/content/{TRAIN}")) == 1


def test_nothing_stands_in_for_what_cannot_be_fetched(stand_in, cache):
    del stand_in.files[TRAIN]
    with pytest.raises(ConnectionError, match=f"(?s){TRAIN} was not fetched .*EntryNotFound"):
        load("fineweb", cache=cache, endpoint=stand_in.address)
    with pytest.raises(ConnectionError, match="run again"):
        load("fineweb", cache=cache, endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("options, message", [(dict(shards=0), "shards must be a whole number from 1 to 103, got 0"),
                                              (dict(shards=104), "from 1 to 103, got 104"),
                                              (dict(valid_tokens=0), "valid_tokens must .* got 0")])
def test_errors_name_the_option(cache, options, message):
    with pytest.raises(ValueError, match=message):
        load("fineweb", cache=cache, **options)


def test_the_missing_package_comes_with_its_line(monkeypatch, cache):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match="pip install huggingface_hub"):
        load("fineweb", cache=cache)


def test_the_cache_folder_is_the_packages(stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORLM_CACHE", str(tmp_path / "mine"))
    load("fineweb", endpoint=stand_in.address)
    assert (tmp_path / "mine" / "fineweb" / TRAIN).exists()
