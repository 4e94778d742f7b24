"""The settings' TLS files as those take them who speak https: Python's clients, and Flink's in Java."""

import atexit
import secrets
import shutil
import ssl
import tempfile
from pathlib import Path

from flink_jobs.settings import Settings, SettingsError

_CIPHERS = (
    "TLS_AES_128_GCM_SHA256,TLS_AES_256_GCM_SHA384,"
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,"
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
)
"""Flink's own choice has none for a key on a curve."""


def read_secret(file: Path | None, setting: str) -> bytes | None:
    """The content of a secret's file without the end of its line; None without one.

    Raises:
        SettingsError: It cannot be read.
    """
    if file is None:
        return None
    try:
        return file.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise SettingsError(f"setting {setting}: {file} cannot be read ({error.strerror})") from error


def client_context(settings: Settings, server: str) -> ssl.SSLContext:
    """What a client of a server speaks TLS with: the authority it trusts, and its own certificate if it has one.

    Args:
        settings: `tls_ca_file` (by default what the system trusts), `tls_certificate_file`, `tls_key_file`.
        server: What the error calls it.

    Raises:
        SettingsError: The files cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca_file)
        if settings.tls_certificate_file is not None:
            password = read_secret(settings.tls_key_password_file, "tls_key_password_file")
            context.load_cert_chain(settings.tls_certificate_file, settings.tls_key_file, lambda: password or b"")
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"the certificates for {server} (tls_ca_file, tls_certificate_file, tls_key_file) cannot be used: {error}"
        ) from error
    return context


def flink_client_options(settings: Settings) -> dict[str, str]:
    """Flink's options for a client of a cluster's REST interface that speaks https.

    Flink takes Java's key stores only: they are made anew in a folder that nobody else reads, with a password that is
    of use with these files alone, and are gone with this process.

    Raises:
        SettingsError: The files cannot be used.
    """
    from cryptography import x509  # not wanted by workers, which read secrets only
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key, pkcs12

    trusted = client_context(settings, "Flink's REST interface").get_ca_certs(binary_form=True)
    folder, password = Path(tempfile.mkdtemp(prefix="millrace-tls-")), secrets.token_hex(16)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    encryption = BestAvailableEncryption(password.encode())
    authorities = [pkcs12.PKCS12Certificate(x509.load_der_x509_certificate(each), None) for each in trusted]
    (folder / "trusted.p12").write_bytes(pkcs12.serialize_java_truststore(authorities, encryption))
    options = {
        "security.ssl.rest.enabled": "true",
        "security.ssl.protocol": "TLSv1.3,TLSv1.2",
        "security.ssl.algorithms": _CIPHERS,
        "security.ssl.rest.truststore": str(folder / "trusted.p12"),
        "security.ssl.rest.truststore-password": password,
    }
    if settings.tls_certificate_file is None or settings.tls_key_file is None:
        return options
    own, *chain = x509.load_pem_x509_certificates(settings.tls_certificate_file.read_bytes())
    key = load_pem_private_key(
        settings.tls_key_file.read_bytes(), read_secret(settings.tls_key_password_file, "tls_key_password_file")
    )
    store = pkcs12.serialize_key_and_certificates(b"client", key, own, chain, encryption)  # type: ignore[arg-type]  # of a key of TLS
    (folder / "own.p12").write_bytes(store)
    return options | {
        "security.ssl.rest.authentication-enabled": "true",
        "security.ssl.rest.keystore": str(folder / "own.p12"),
        "security.ssl.rest.keystore-password": password,
        "security.ssl.rest.key-password": password,
    }
