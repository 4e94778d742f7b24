"""Certificates for tests: an authority of their own, what it signs, and what goes wrong with certificates."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates.

    Args:
        folder: Where its files are, `ca.pem` among them.
        name: Its own name, and the first part of its files'.
    """

    def __init__(self, folder: Path, name: str = "ca"):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._key, self._name = folder, ec.generate_private_key(ec.SECP256R1()), _name(name)
        built = _certificate(self._name, self._name, self._key.public_key(), 30)
        built = built.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(_pem(built.sign(self._key, hashes.SHA256())))

    def sign(self, name: str, address: str = "127.0.0.1", days: int = 30, password: str | None = None) -> "Signed":
        """A certificate of that name for that address; one of negative days ended so many days ago."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        built = _certificate(_name(name), self._name, key.public_key(), days).add_extension(alternative, critical=False)
        hidden = (
            serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        )
        signed = Signed(*(self._folder / f"{name}.{kind}.pem" for kind in ("certificate", "key", "both")))
        signed.certificate.write_bytes(_pem(built.sign(self._key, hashes.SHA256())))
        signed.key.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
        )
        signed.both.write_bytes(signed.key.read_bytes() + signed.certificate.read_bytes())
        return signed


class Signed:
    """The files of a certificate."""

    def __init__(self, certificate: Path, key: Path, both: Path):
        self.certificate, self.key, self.both = certificate, key, both


def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(subject, issuer, key, days):
    now = datetime.datetime.now(datetime.UTC)
    begin, end = (now - DAY, now + days * DAY) if days > 0 else (now + (days - 1) * DAY, now + days * DAY)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)


def _pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)
