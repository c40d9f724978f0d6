"""Tokens made for a test: static ones, and JWTs of an issuer."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER = "https://issuer.test"
AUDIENCE = "ledger"


def token_line(identity: str, scopes: str, token: str) -> str:
    """A line of the file of tokens."""
    return f"{identity} {scopes} {hashlib.sha256(token.encode()).hexdigest()}\n"


class Issuer:
    """Signs tokens with a key of each kind; its JWKS has the public ones."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.ed = ed25519.Ed25519PrivateKey.generate()
        self._key_by_algorithm: dict[str, tuple[Any, str]] = {
            "RS256": (self.rsa, "rsa"),
            "PS256": (self.rsa, "rsa"),
            "ES256": (self.ec, "ec"),
            "EdDSA": (self.ed, "ed"),
        }

    @property
    def jwks(self) -> dict[str, list[dict[str, Any]]]:
        public: list[dict[str, Any]] = [
            RSAAlgorithm.to_jwk(self.rsa.public_key(), as_dict=True) | {"kid": "rsa"},
            ECAlgorithm.to_jwk(self.ec.public_key(), as_dict=True)
            | {"kid": "ec", "alg": "ES256", "use": "sig"},
            OKPAlgorithm.to_jwk(self.ed.public_key(), as_dict=True) | {"kid": "ed"},
        ]
        return {"keys": public}

    @property
    def rsa_public_pem(self) -> bytes:
        """The public key, which an attacker may use as the secret of HS256."""
        return self.rsa.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def write(self, path: Path) -> None:
        """The JWKS as a file."""
        path.write_text(json.dumps(self.jwks))

    def sign(
        self, algorithm: str = "RS256", *, header: Mapping[str, Any] | None = None, **claims: Any
    ) -> str:
        """A token that is good for ten minutes unless `claims` say otherwise.

        A claim that is None is left out.
        """
        key, key_id = self._key_by_algorithm[algorithm]
        return jwt.encode(
            payload(**claims), key, algorithm, headers={"kid": key_id, **(header or {})}
        )


def payload(**claims: Any) -> dict[str, Any]:
    """The claims of a good token, some of them replaced; a claim that is None is left out."""
    usual = {
        "sub": "gateway",
        "iss": ISSUER,
        "aud": AUDIENCE,
        "exp": int(time.time()) + 600,
        "scope": "ingest read openid",
    }
    return {name: value for name, value in (usual | claims).items() if value is not None}
