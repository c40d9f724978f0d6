"""Verifies JSON Web Tokens with the public keys of their issuer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from ledger.api.access.authentication import TokenRefused, VerifiedClaims
from ledger.api.access.credential_files import is_identity
from ledger.api.access.reloading import FileMissingOrEmpty, FileUnusable, ReloadedFiles, read_file
from ledger.api.methods import Scope

# How far the clocks of two machines may differ.
LEEWAY_SECONDS = 10
RSA_BITS_MIN = 2048
_REQUIRED_CLAIMS = ["exp", "iss", "aud", "sub"]
_SCOPES = {scope.value: scope for scope in Scope}


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key and its algorithms: those of its kind, or only the one that its `alg` names."""

    public_key: Any
    algorithms: frozenset[str]


# By key id; None for the only key, if it has no id.
KeySet = Mapping[str | None, VerificationKey]


class JwtVerifier:
    """Verifies tokens of one issuer for one audience."""

    def __init__(
        self, jwks: Path, *, issuer: str, audience: str, algorithms: frozenset[str]
    ) -> None:
        """Raises FileUnusable."""
        self.keys: ReloadedFiles[KeySet] = ReloadedFiles(
            [jwks], lambda: read_keys(jwks, algorithms), admit_none=lambda: {}
        )
        self._issuer = issuer
        self._audience = audience

    def verify(self, token: str) -> VerifiedClaims:
        """Returns the claims. Takes 50 to 100 µs. Raises TokenRefused."""
        try:
            header = jwt.get_unverified_header(token)
            key = self._key_of(header)
            claims = jwt.decode(
                token,
                key.public_key,
                # The header's algorithm counts only if it is one of the key's.
                algorithms=[str(header.get("alg"))] if header.get("alg") in key.algorithms else [],
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_SECONDS,
                options={"require": _REQUIRED_CLAIMS},
            )
            return _claims_of(claims)
        except TokenRefused:
            raise
        except Exception as error:
            # Whatever the bytes of an attacker do to a parser, the token is not accepted.
            raise TokenRefused(f"{type(error).__name__}: {error}"[:200]) from error

    def _key_of(self, header: Mapping[str, Any]) -> VerificationKey:
        keys, key_id = self.keys.value, header.get("kid")
        if key_id is None and len(keys) == 1:
            return next(iter(keys.values()))
        if not isinstance(key_id, str) or key_id not in keys:
            raise TokenRefused("it is signed by no key of LEDGER_JWT_JWKS_FILE")
        return keys[key_id]


def _claims_of(claims: Mapping[str, Any]) -> VerifiedClaims:
    identity, scope = claims["sub"], claims.get("scope", "")
    if not isinstance(identity, str) or not is_identity(identity):
        raise TokenRefused("its sub is no identity")
    if not isinstance(scope, str):
        raise TokenRefused("its scope is not a text")
    # Other words are scopes of other services.
    scopes = frozenset(_SCOPES[word] for word in scope.split(" ") if word in _SCOPES)
    return VerifiedClaims(identity, scopes, float(int(claims["exp"])) + LEEWAY_SECONDS)


def read_keys(path: Path, algorithms: frozenset[str]) -> KeySet:
    """The keys of a JWKS file that can verify with one of `algorithms`. Raises FileUnusable."""
    contents = read_file(path)
    if not contents.strip():
        raise FileMissingOrEmpty(f"{path} is empty")
    try:
        listed = json.loads(contents)["keys"]
        keys: dict[str | None, VerificationKey] = {}
        for member in listed:
            if member.get("use", "sig") != "sig":
                continue
            key_id = member.get("kid")
            key = _key(path, member, algorithms)
            if key_id in keys or (None in (key_id, *keys) and keys):
                raise FileUnusable(f"{path}: several keys need a kid each")
            if key.algorithms:
                keys[key_id] = key
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FileUnusable(f"{path} is no JSON Web Key Set") from error
    if not keys:
        text = f"{path} has no key for the algorithms {','.join(sorted(algorithms))}"
        raise FileUnusable(text) if listed else FileMissingOrEmpty(text)
    return keys


def _key(path: Path, member: Mapping[str, Any], algorithms: frozenset[str]) -> VerificationKey:
    if member.get("kty") == "oct" or "d" in member:
        raise FileUnusable(f"{path} holds a secret: it must hold public keys only")
    try:
        public_key = jwt.PyJWK(dict(member)).key
    except (jwt.PyJWTError, NotImplementedError) as error:
        raise FileUnusable(
            f"{path}: the key {member.get('kid')} cannot be used: {error}"
        ) from error
    fitting = _algorithms_of(path, public_key) & algorithms
    named = member.get("alg")
    return VerificationKey(public_key, fitting & {named} if named is not None else fitting)


def _algorithms_of(path: Path, public_key: Any) -> frozenset[str]:
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

    if isinstance(public_key, rsa.RSAPublicKey):
        if public_key.key_size < RSA_BITS_MIN:
            raise FileUnusable(
                f"{path} holds an RSA key of {public_key.key_size} bits; the minimum is "
                f"{RSA_BITS_MIN}"
            )
        return frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        by_curve = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
        return (
            frozenset({by_curve[public_key.curve.name]})
            if public_key.curve.name in by_curve
            else frozenset()
        )
    if isinstance(public_key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return frozenset({"EdDSA"})
    return frozenset()
