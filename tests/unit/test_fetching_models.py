"""Version folders from local folders, object stores and web servers: checked before anything parses them."""

import functools
import hashlib
import http.server
import shutil
import threading
from typing import ClassVar

import fsspec
import pytest

from models import fetching
from models.fetching import ModelUnreachableError, fetch_version, version_numbers
from models.json_document import ModelRefusedError
from models.manifest import MANIFEST_FILE, MODEL_FILE, Manifest
from models.onnx_model import OnnxModel
from models.opened import SHIPPED

PURCHASE = SHIPPED / "purchase"
SHA256 = Manifest.read(PURCHASE / "2").sha256
MANIFEST_SHA256 = hashlib.sha256((PURCHASE / "2" / MANIFEST_FILE).read_bytes()).hexdigest()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def models(tmp_path):
    """A folder of models that a test may change."""
    shutil.copytree(PURCHASE, tmp_path / "models" / "purchase")
    return tmp_path / "models"


@pytest.fixture
def web(models):
    """The same folder behind a web server, which keeps what it was asked for in `_Quiet.asked`."""
    _Quiet.asked = []
    handler = functools.partial(_Quiet, directory=str(models))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def memory(models):
    """The same in fsspec's store in memory."""
    store = fsspec.filesystem("memory")
    store.put(str(models), "/shop/models", recursive=True)
    yield "memory://shop/models"
    store.rm("/shop", recursive=True)


@pytest.fixture
def root(request, models, tmp_path):
    if request.param == "folder":
        return models
    if request.param == "file":
        return f"file://{models}"
    return request.getfixturevalue(request.param)


everywhere = pytest.mark.parametrize("root", ["folder", "file", "web", "memory"], indirect=True)


@everywhere
def test_version_is_found_wherever_it_lies_and_opens(root, tmp_path):
    folder = fetch_version(root, "purchase", 2, SHA256, cache=tmp_path / "cache")
    assert (folder.name, folder.parent.name) == ("2", "purchase")
    assert (folder / MANIFEST_FILE).read_bytes() == (PURCHASE / "2" / MANIFEST_FILE).read_bytes()
    names = Manifest.read(folder).features
    hashed = Manifest.read(folder).feature_set_hash
    model = OnnxModel.load(folder, feature_names=names, feature_set_hash=lambda _names: hashed)
    assert model.manifest.sha256 == SHA256


@everywhere
def test_versions_are_listed_as_numbers(root, models):
    assert version_numbers(root, "purchase") == [1, 2]
    assert version_numbers(root, "churn") == []


@everywhere
def test_changed_model_is_refused_before_it_is_parsed(root, models, tmp_path, monkeypatch):
    def forbidden(*_):
        raise AssertionError("parsed")

    monkeypatch.setattr("onnx.load_model_from_string", forbidden)
    if isinstance(root, str) and root.startswith("memory"):
        fsspec.filesystem("memory").pipe("/shop/models/purchase/2/model.onnx", b"another")
    (models / "purchase" / "2" / MODEL_FILE).write_bytes(b"another")
    with pytest.raises(ModelRefusedError, match="its manifest says"):
        fetch_version(root, "purchase", 2, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("model.onnx"))


@everywhere
@pytest.mark.parametrize(
    ("name", "version", "digests", "said"),
    [
        ("purchase", 9, {}, "9.* not there"),
        ("purchase", 2, {"sha256": "0" * 64}, "asked for was 000"),
        ("purchase", 2, {"manifest_sha256": "0" * 64}, "manifest.json has sha256"),
        ("../purchase", 2, {}, "no name"),
        ("purchase", 0, {}, "no name and version"),
        ("purchase", 2, {"max_bytes": 1_000}, "over 1,000 bytes"),
    ],
)
def test_what_is_not_as_asked_for_is_refused(root, tmp_path, name, version, digests, said):
    with pytest.raises(ModelRefusedError, match=said):
        fetch_version(root, name, version, cache=tmp_path / "cache", **digests)
    assert not list((tmp_path / "cache").rglob("model.onnx"))


def test_folder_that_is_named_for_another_version_is_refused(models, tmp_path):
    (models / "purchase" / "2").rename(models / "purchase" / "7")
    with pytest.raises(ModelRefusedError, match=r"holds purchase/2, not purchase/7"):
        fetch_version(models, "purchase", 7)


def test_cached_version_is_used_without_asking_when_the_manifest_is_pinned(web, tmp_path):
    pinned = {"manifest_sha256": MANIFEST_SHA256, "cache": tmp_path / "cache"}
    first = fetch_version(web, "purchase", 2, SHA256, **pinned)
    asked = len(_Quiet.asked)
    assert asked == 2
    assert fetch_version(web, "purchase", 2, SHA256, **pinned) == first
    assert len(_Quiet.asked) == asked


def test_broken_folder_of_the_cache_is_fetched_anew(web, tmp_path):
    folder = fetch_version(web, "purchase", 2, cache=tmp_path / "cache")
    whole = (folder / MODEL_FILE).read_bytes()
    (folder / MODEL_FILE).write_bytes(b"half")
    assert fetch_version(web, "purchase", 2, cache=tmp_path / "cache") == folder
    assert (folder / MODEL_FILE).read_bytes() == whole
    assert [path.name for path in folder.parent.iterdir()] == ["2"]


def test_fetching_at_once_gives_one_whole_folder(web, tmp_path):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch_version(web, "purchase", 2, cache=tmp_path / "cache")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert [path.name for path in found[0].parent.iterdir()] == ["2"]


def test_server_that_does_not_answer_is_told_apart_from_a_refusal(web, tmp_path):
    closed = "http://127.0.0.1:1"
    with pytest.raises(ModelUnreachableError, match="cannot be read") as told:
        fetch_version(closed, "purchase", 2, cache=tmp_path)
    assert "\n" not in str(told.value)
    with pytest.raises(ModelUnreachableError):
        version_numbers(closed, "purchase")


def test_content_that_never_ends_is_cut_off(web, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "WAIT_S", -1.0)
    with pytest.raises(ModelUnreachableError, match="did not come within"):
        fetch_version(web, "purchase", 2, cache=tmp_path)


def test_store_whose_client_is_not_installed_says_what_to_install(tmp_path):
    with pytest.raises(ModelRefusedError, match=r"gs://bucket/models/purchase/2/manifest.json: "):
        fetch_version("gs://bucket/models", "purchase", 2, cache=tmp_path)
    with pytest.raises(ModelRefusedError, match="Protocol not known"):
        fetch_version("nowhere://models", "purchase", 2, cache=tmp_path)


def test_root_with_a_password_is_refused_without_repeating_it(tmp_path):
    with pytest.raises(ModelRefusedError, match="netrc") as told:
        fetch_version("https://me:secret@models.example/", "purchase", 2, cache=tmp_path)
    assert "secret" not in str(told.value)
