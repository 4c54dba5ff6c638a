"""Certificates and keys of one control plane: a real CA, so that pods' ca.crt verifies and kubelets have names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa


@dataclass(frozen=True)
class KeyPair:
    """Paths of a PEM certificate and its private key."""

    certificate: Path
    key: Path


class Authority:
    """A CA whose certificates live in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._ca = trustme.CA(organization_name="clusterlab", organization_unit_name="tests")
        self.pair = KeyPair(folder / "ca.crt", folder / "ca.key")
        self._ca.cert_pem.write_to_path(self.pair.certificate)
        self._ca.private_key_pem.write_to_path(self.pair.key)

    def serving(self, name: str, addresses: tuple[str, ...]) -> KeyPair:
        """A server's certificate for DNS names and IP addresses."""
        return self._write(name, self._ca.issue_cert(*addresses, common_name=name))

    def user(self, name: str, group: str = "system:authenticated") -> KeyPair:
        """A client certificate: the API server reads the user from its common name, the group from its organisation.

        A kubelet is ("system:node:<node name>", "system:nodes").
        """
        # A name that means nothing: Go refuses a certificate whose list of alternative names is empty and critical.
        issued = self._ca.issue_cert("client.invalid", common_name=name, organization_name=group)
        return self._write(name.replace(":", "-"), issued)

    def _write(self, name: str, issued: trustme.LeafCert) -> KeyPair:
        pair = KeyPair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        pair.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(pair.key)
        return pair


def signing_key(folder: Path) -> KeyPair:
    """The key that signs service account tokens: (public, private) as the API server takes them."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pair = KeyPair(folder / "service-account.pub", folder / "service-account.key")
    pair.key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    pair.certificate.write_bytes(
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return pair
