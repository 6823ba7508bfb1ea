"""A disposable certificate authority for one control plane."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOOPBACK = "127.0.0.1"
_VALID_FOR = datetime.timedelta(days=7)


class CertificateAuthority:
    """A CA that writes `<name>.crt` and `<name>.key` into `folder`; its own files are `ca.crt` and `ca.key`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = write_key(folder / "ca.key")
        self._name = _name("kpo-cleanup-test-ca")
        builder = _builder(self._name, self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self._write("ca", builder)

    def issue_server(self, name: str) -> None:
        """Issue a certificate for a server on loopback."""
        names = x509.SubjectAlternativeName(
            [
                x509.IPAddress(ipaddress.ip_address(LOOPBACK)),
                x509.DNSName("localhost"),
                x509.DNSName("kubernetes.default.svc"),
            ]
        )
        builder = self._leaf(name, "", ExtendedKeyUsageOID.SERVER_AUTH).add_extension(names, critical=False)
        self._write(name, builder)

    def issue_client(self, name: str, group: str) -> None:
        """Issue a certificate that authenticates its owner to Kubernetes as user `name` in `group`."""
        self._write(name, self._leaf(name, group, ExtendedKeyUsageOID.CLIENT_AUTH))

    def _leaf(self, name: str, group: str, usage: x509.ObjectIdentifier) -> x509.CertificateBuilder:
        key = write_key(self._folder / f"{name}.key")
        return _builder(_name(name, group), self._name, key).add_extension(
            x509.ExtendedKeyUsage([usage]), critical=False
        )

    def _write(self, name: str, builder: x509.CertificateBuilder) -> None:
        certificate = builder.sign(self._key, hashes.SHA256())
        (self._folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def write_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Generate a private key, write it to `path` and return it."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return key


def _name(common_name: str, organization: str = "") -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now().astimezone()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + _VALID_FOR)
    )
