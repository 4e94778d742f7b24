"""Who made a model: a signature over the manifest, which holds the digest of the graph, by a key of one's own.

`manifest.sig` beside `manifest.json` has it in base64: Ed25519 of the manifest's bytes, or ECDSA with SHA-256.
Whoever can sign bytes can make it (`openssl pkeyutl -sign -rawin`, a key service); nothing of Millrace is in it.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from models.json_document import ModelRefusedError
from models.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, MODEL_FILE, Manifest
from models.onnx_checks import MAX_MODEL_BYTES, read_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_FILE = "manifest.sig"
MAX_SIGNATURE_BYTES = 1_024
_END = "-----END PUBLIC KEY-----"
_MAKE_ONE = "make one with `openssl genpkey -algorithm ed25519`"


class SigningKeyError(ValueError):
    """A key is none that signs models or checks their signatures; one line says why."""


def sign_model(folder: Path, private_key: bytes, password: bytes | None = None) -> Path:
    """Sign the model of a folder, once it is seen to be whole.

    Args:
        folder: With `model.onnx` and `manifest.json`.
        private_key: PEM of an Ed25519 or elliptic-curve key.
        password: Of the key, if it is encrypted.

    Returns:
        The signature's file; an older one is replaced.

    Raises:
        ModelRefusedError: The graph is not the one of the manifest, or a file is not there.
        SigningKeyError: It is no such key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    manifest_bytes = read_bytes(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES)
    manifest = Manifest.from_json(manifest_bytes, where=str(folder / MANIFEST_FILE))
    digest = hashlib.sha256(read_bytes(folder, MODEL_FILE, MAX_MODEL_BYTES)).hexdigest()
    if digest != manifest.sha256:
        raise ModelRefusedError(
            f"{folder / MODEL_FILE} has sha256 {digest}, its manifest says {manifest.sha256}: what is not whole is not "
            "signed"
        )
    try:
        key = load_pem_private_key(private_key, password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SigningKeyError(f"the private key cannot be read ({error}): {_MAKE_ONE}") from error
    if not isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey):
        raise SigningKeyError(f"the private key is neither Ed25519 nor of an elliptic curve: {_MAKE_ONE}")
    path = folder / SIGNATURE_FILE
    written = path.with_suffix(".new")
    written.write_bytes(base64.b64encode(_signature(key, manifest_bytes)) + b"\n")
    written.replace(path)
    return path


def _signature(key: "Ed25519PrivateKey | EllipticCurvePrivateKey", content: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.hashes import SHA256

    return key.sign(content, ECDSA(SHA256())) if isinstance(key, EllipticCurvePrivateKey) else key.sign(content)


def check_signature(folder: Path, manifest_bytes: bytes, public_keys: str) -> None:
    """Whether the manifest was signed by the owner of one of some keys.

    Args:
        folder: The model's.
        manifest_bytes: Its manifest as it was read: what is used is what was checked.
        public_keys: PEM texts of public keys, one behind the other.

    Raises:
        ModelRefusedError: There is no signature, or none of them made it.
        SigningKeyError: One of the keys is none.
    """
    keys = list(_public_keys(public_keys))
    path = folder / SIGNATURE_FILE
    if not path.is_file():
        raise ModelRefusedError(
            f"{folder} is not signed, and the pipeline takes only signed models: sign it with `millrace models sign`"
        )
    try:
        signature = base64.b64decode(read_bytes(folder, SIGNATURE_FILE, MAX_SIGNATURE_BYTES).strip(), validate=True)
    except binascii.Error as error:
        raise ModelRefusedError(f"{path} is no signature ({error}): sign the model again") from error
    if not any(_is_by(key, signature, manifest_bytes) for key in keys):
        plural = "s" if len(keys) > 1 else ""
        raise ModelRefusedError(
            f"{folder} is not signed by the pipeline's key{plural}: {MANIFEST_FILE} was changed after signing, or "
            "somebody else signed it"
        )


def check_signed_model(folder: Path, public_keys: str) -> None:
    """As `check_signature`, of a folder that nothing was read of yet, the graph's digest included."""
    manifest_bytes = read_bytes(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES)
    check_signature(folder, manifest_bytes, public_keys)
    manifest = Manifest.from_json(manifest_bytes, where=str(folder / MANIFEST_FILE))
    digest = hashlib.sha256(read_bytes(folder, MODEL_FILE, MAX_MODEL_BYTES)).hexdigest()
    if digest != manifest.sha256:
        path = folder / MODEL_FILE
        raise ModelRefusedError(f"{path} has sha256 {digest}, the signed manifest says {manifest.sha256}")


def _public_keys(texts: str) -> Iterator["Ed25519PublicKey | EllipticCurvePublicKey"]:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    *blocks, rest = texts.split(_END)
    if not blocks or rest.strip():
        raise SigningKeyError("no public key in PEM: write the text of `openssl pkey -in KEY -pubout`")
    for block in blocks:
        try:
            key = load_pem_public_key(f"{block}{_END}\n".encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise SigningKeyError(f"a public key cannot be read: {' '.join(str(error).split())}") from error
        if not isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey):
            raise SigningKeyError("a public key is neither Ed25519 nor of an elliptic curve")
        yield key


def _is_by(key: "Ed25519PublicKey | EllipticCurvePublicKey", signature: bytes, content: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        if isinstance(key, EllipticCurvePublicKey):
            key.verify(signature, content, ECDSA(SHA256()))
        else:
            key.verify(signature, content)
    except InvalidSignature:
        return False
    return True
