"""Version folders from local folders, object stores and web servers: checked before anything parses them."""

import dataclasses
import functools
import hashlib
import http.server
import shutil
import threading
from typing import ClassVar

import fsspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from test_model_signatures import private_pem, public_pem

from flink_jobs.describe import description
from flink_jobs.pipelines import PipelineError, load_pipeline, writable_root
from flink_jobs.preflight import PreflightError, check_model
from flink_jobs.receipt_models import ReceiptModel, ReceiptModels
from models import fetching
from models.fetching import fetch_version, version_numbers
from models.json_document import ModelRefusedError, ModelUnreachableError
from models.manifest import MANIFEST_FILE, MODEL_FILE, Manifest
from models.onnx_model import OnnxModel
from models.opened import SHIPPED
from models.registry import read_version, read_versions
from models.signing import SIGNATURE_FILE, sign_model

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
def test_small_files_say_what_is_there_and_what_is_retired(root, models):
    if isinstance(root, str) and root.startswith("memory"):
        fsspec.filesystem("memory").pipe("/shop/models/purchase/1/retired.json", b'{"reason": "drifted"}')
    (models / "purchase" / "1" / "retired.json").write_text('{"reason": "drifted"}')
    found = read_versions(root, "purchase")
    assert [(each.number, each.retired, each.problem) for each in found] == [(1, "drifted", None), (2, None, None)]
    with pytest.raises(ModelRefusedError, match="there are 1, 2"):
        read_version(root, "purchase", 3)


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


def pipeline_at(root, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import dataclasses\nfrom flink_jobs.pipelines import purchase\nfrom udfs.pipeline import Model\n"
        f"pipeline = dataclasses.replace(purchase.pipeline, model=Model('purchase', version=2, root={str(root)!r}))\n"
    )
    return load_pipeline(str(path))


@pytest.mark.parametrize("root", ["file", "web"], indirect=True)
def test_pipeline_may_name_any_root(root, tmp_path, monkeypatch):
    monkeypatch.setenv("MILLRACE_CACHE", str(tmp_path / "cache"))
    pipeline = pipeline_at(root, tmp_path)
    assert check_model(pipeline).manifest.sha256 == SHA256
    assert description(pipeline)["model"]["sha256"] == SHA256
    features = Manifest.read(PURCHASE / "2").feature_set_hash
    receipt = ReceiptModel(pipeline.events.topic, "purchase", "2", SHA256, features)
    opened = ReceiptModels(pipeline).model(receipt)
    assert isinstance(opened, OnnxModel), opened


def test_root_elsewhere_that_fails_is_one_line_before_a_job_starts(web, tmp_path, monkeypatch):
    monkeypatch.setenv("MILLRACE_CACHE", str(tmp_path / "cache"))
    pipeline = pipeline_at("http://127.0.0.1:1/models", tmp_path)
    with pytest.raises(PreflightError, match="cannot be read"):
        check_model(pipeline)
    assert "cannot be read" in description(pipeline)["model"]["problem"]
    receipt = ReceiptModel(pipeline.events.topic, "purchase", "2", SHA256, "0")
    assert "cannot be had" in str(ReceiptModels(pipeline).model(receipt))
    with pytest.raises(PipelineError, match="give a folder with --root"):
        writable_root(pipeline)
    assert writable_root(pipeline, tmp_path) == tmp_path


@pytest.mark.parametrize("root", ["web", "memory"], indirect=True)
def test_signature_of_a_root_elsewhere_is_fetched_and_checked(root, models, tmp_path, monkeypatch):
    monkeypatch.setenv("MILLRACE_CACHE", str(tmp_path / "cache"))
    key, stranger = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    plain = pipeline_at(root, tmp_path)
    pipeline = dataclasses.replace(plain, model=dataclasses.replace(plain.model, signed_by=public_pem(key)))

    def sign(owner):
        path = sign_model(models / "purchase" / "2", private_pem(owner))
        if root.startswith("memory"):
            fsspec.filesystem("memory").pipe(f"/shop/models/purchase/2/{SIGNATURE_FILE}", path.read_bytes())

    assert check_model(plain).manifest.version == 2, "cached without a signature"
    with pytest.raises(PreflightError, match="is not signed"):
        check_model(pipeline)
    sign(stranger)
    with pytest.raises(PreflightError, match="not signed by the pipeline's key"):
        check_model(pipeline)
    sign(key)
    assert check_model(pipeline).manifest.sha256 == SHA256
    features = Manifest.read(PURCHASE / "2").feature_set_hash
    opened = ReceiptModels(pipeline).model(ReceiptModel(pipeline.events.topic, "purchase", "2", SHA256, features))
    assert isinstance(opened, OnnxModel), opened


def test_kept_signature_does_where_nobody_answers_and_a_large_one_is_cut_off(web, models, tmp_path, monkeypatch):
    sign_model(models / "purchase" / "2", private_pem(Ed25519PrivateKey.generate()))
    asked = {"manifest_sha256": MANIFEST_SHA256, "cache": tmp_path / "cache", "signed": True}
    kept = fetch_version(web, "purchase", 2, **asked)
    signature = (models / "purchase" / "2" / SIGNATURE_FILE).read_bytes()
    assert (kept / SIGNATURE_FILE).read_bytes() == signature
    nowhere = "http://127.0.0.1:1"
    assert (fetch_version(nowhere, "purchase", 2, **asked) / SIGNATURE_FILE).read_bytes() == signature
    (kept / SIGNATURE_FILE).unlink()
    with pytest.raises(ModelUnreachableError, match=SIGNATURE_FILE):
        fetch_version(nowhere, "purchase", 2, **asked)
    (models / "purchase" / "2" / SIGNATURE_FILE).write_bytes(b"A" * 1_025)
    with pytest.raises(ModelRefusedError, match="over 1,024 bytes"):
        fetch_version(web, "purchase", 2, **asked)
    assert sorted(path.name for path in kept.iterdir()) == [MANIFEST_FILE, MODEL_FILE]
