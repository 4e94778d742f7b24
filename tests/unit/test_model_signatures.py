"""A signed model is opened only as it was signed, and only by whose key the pipeline names."""

import dataclasses
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from typer.testing import CliRunner
from wire_records import MODELS, PURCHASE

from flink_jobs import preflight
from flink_jobs.cli import app
from flink_jobs.pipeline_model import open_model
from flink_jobs.preflight import PreflightError, check_model
from models.json_document import ModelRefusedError
from models.signing import SigningKeyError, check_signed_model, sign_model
from udfs.pipeline import Model

ED25519, CURVE = ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
STRANGER = ed25519.Ed25519PrivateKey.generate()


def private_pem(key, password=None):
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def public_pem(*keys):
    form = Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    return "".join(key.public_key().public_bytes(*form).decode() for key in keys)


def folder_of(root, key):
    folder = root / "purchase" / "2"
    shutil.copytree(MODELS / "purchase" / "2", folder)
    if key is not None:
        sign_model(folder, private_pem(key))
    return folder


def pipeline_of(root, signed_by):
    return dataclasses.replace(PURCHASE, model=Model("purchase", version=2, root=root, signed_by=signed_by))


@pytest.mark.parametrize("key", [ED25519, CURVE])
def test_a_model_that_one_of_the_named_keys_signed_is_opened(tmp_path, key):
    folder = folder_of(tmp_path, key)
    pipeline = pipeline_of(tmp_path, public_pem(STRANGER, key))
    assert open_model(pipeline, folder).manifest.version == 2
    check_model(pipeline)


def changed_graph(folder):
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")


def changed_manifest(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text("utf-8").replace('"description": "', '"description": "better: '), "utf-8")


def graph_and_manifest_of_another_version(folder):
    for name in ("model.onnx", "manifest.json"):
        shutil.copy(MODELS / "purchase" / "1" / name, folder / name)


def no_signature(folder):
    (folder / "manifest.sig").unlink()


def no_base64(folder):
    (folder / "manifest.sig").write_bytes(b"\xff" * 64)


def empty_signature(folder):
    (folder / "manifest.sig").write_bytes(b"")


def signature_outside(folder):
    (folder / "manifest.sig").rename(folder.parent / "elsewhere.sig")
    (folder / "manifest.sig").symlink_to(folder.parent / "elsewhere.sig")


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (changed_graph, "has sha256"),
        (changed_manifest, "is not signed by the pipeline's key: manifest.json was changed"),
        (graph_and_manifest_of_another_version, "is not signed by the pipeline's key"),
        (no_signature, "is not signed, and the pipeline takes only signed models"),
        (no_base64, "is no signature"),
        (empty_signature, "is not signed by the pipeline's key"),
        (signature_outside, "leads out of its folder"),
    ],
)
def test_what_was_changed_after_signing_is_refused_before_anything_opens_it(tmp_path, monkeypatch, harm, why):
    folder = folder_of(tmp_path, ED25519)
    harm(folder)
    pipeline = pipeline_of(tmp_path, public_pem(ED25519))
    monkeypatch.setattr(preflight, "try_out", lambda _: pytest.fail("a process opened it"))
    with pytest.raises(ModelRefusedError, match=why) as refused:
        open_model(pipeline, folder)
    assert "\n" not in str(refused.value)
    with pytest.raises(PreflightError, match=why):
        check_model(pipeline)


def test_a_model_that_somebody_else_signed_is_refused_and_one_without_demands_is_not(tmp_path):
    folder = folder_of(tmp_path, STRANGER)
    with pytest.raises(ModelRefusedError, match="is not signed by the pipeline's keys"):
        open_model(pipeline_of(tmp_path, public_pem(ED25519, CURVE)), folder)
    assert open_model(pipeline_of(tmp_path, None), folder)


OF_RSA = public_pem(rsa.generate_private_key(65537, 2048))


@pytest.mark.parametrize("text", ["", "no key", public_pem(ED25519) + "and more", OF_RSA])
def test_what_is_no_key_is_told_in_one_line(tmp_path, text):
    folder = folder_of(tmp_path, ED25519)
    with pytest.raises(SigningKeyError, match="public key"):
        check_signed_model(folder, text)
    with pytest.raises(PreflightError, match="public key"):
        check_model(pipeline_of(tmp_path, text))


def test_commands_sign_and_check(tmp_path):
    folder = folder_of(tmp_path, None)
    key, public, password = tmp_path / "key.pem", tmp_path / "key.pub", tmp_path / "password"
    key.write_bytes(private_pem(ED25519, b"open sesame"))
    public.write_text(public_pem(ED25519), "utf-8")
    password.write_text("open sesame\n", "utf-8")
    run = CliRunner().invoke
    assert "Password was not given" in run(app, ["models", "sign", str(folder), "--key", str(key)]).stderr
    signed = run(app, ["models", "sign", str(folder), "--key", str(key), "--password-file", str(password)])
    assert (signed.exit_code, signed.stdout.strip()) == (0, f"signed: {folder / 'manifest.sig'}")
    assert run(app, ["models", "verify", str(folder), "--key", str(public)]).exit_code == 0
    changed_graph(folder)
    refused = run(app, ["models", "verify", str(folder), "--key", str(public)])
    assert refused.exit_code == 1
    assert "the signed manifest says" in refused.stderr
    again = run(app, ["models", "sign", str(folder), "--key", str(key), "--password-file", str(password)])
    assert "what is not whole is not signed" in again.stderr


def test_openssl_makes_the_same_signature(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    folder = folder_of(tmp_path, ED25519)
    (tmp_path / "key.pem").write_bytes(private_pem(ED25519))
    made = subprocess.run(
        ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", tmp_path / "key.pem", "-in", folder / "manifest.json"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    encoded = subprocess.run(["openssl", "base64", "-A"], input=made, capture_output=True, check=True).stdout
    assert (folder / "manifest.sig").read_bytes().strip() == encoded
