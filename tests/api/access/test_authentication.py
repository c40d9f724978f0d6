"""Authentication: the tokens, JWTs and certificates that are accepted, and those refused."""

import base64
import hashlib
import hmac
import json
import os
import re
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status
from structlog.testing import capture_logs
from support.certificates import HERE, Authority, Issued, dns, uri
from support.events import event_message
from support.running import RunningLedger, running_ledger
from support.tokens import AUDIENCE, ISSUER, Issuer, payload, token_line

from ledger.api.access.authentication import (
    REFUSAL_SECONDS,
    TOKEN_BYTES_MAX,
    Authenticator,
    Caller,
    Credential,
    TokenRefused,
)
from ledger.api.access.credential_files import read_identities, read_tokens
from ledger.api.access.jwt_tokens import LEEWAY_SECONDS, JwtVerifier
from ledger.api.access.reloading import FileUnusable, ReloadedFiles
from ledger.api.access.security import Security, SecurityMisconfigured
from ledger.api.methods import METHODS, Scope
from ledger.bootstrap.database import Database
from ledger.errors import NotAuthenticated
from ledger.settings import Settings
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

TOKEN = "ledger_of-the-gateway"
ALL_SCOPES_TOKEN = "ledger_of-an-operator"
ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})
UNKNOWN_RESTAURANT = ledger_pb2.GetRestaurantRequest(restaurant_id="res_unknown")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Path:
    """A folder with the files of tokens, keys and identities."""
    folder = tmp_path_factory.mktemp("security")
    issuer.write(folder / "jwks.json")
    (folder / "tokens").write_text(
        "# who may do what\n\n"
        + token_line("gateway", "ingest", TOKEN)
        + token_line("operator", "ingest,read,payout,pay,quarantine,admin", ALL_SCOPES_TOKEN)
    )
    return folder


@pytest.fixture(scope="module")
async def guarded(shared_database: Database, folder: Path) -> AsyncIterator[RunningLedger]:
    """A server that requires tokens or JWTs, on loopback without TLS."""
    async with running_ledger(
        shared_database,
        auth_tokens_file=folder / "tokens",
        jwt_jwks_file=folder / "jwks.json",
        jwt_issuer=ISSUER,
        jwt_audience=AUDIENCE,
    ) as ledger:
        yield ledger


async def outcome_of(
    stub: Any, method: str, request: Any, *headers: str
) -> tuple[grpc.StatusCode, str | None]:
    """Makes a call with these authorization headers. Returns its code and its reason.

    Asserts that every refusal has the same text.
    """
    return await _outcome(
        getattr(stub, method)(
            request, metadata=[("authorization", header) for header in headers], timeout=60
        )
    )


async def _outcome(call: Any) -> tuple[grpc.StatusCode, str | None]:
    try:
        await call
    except aio.AioRpcError as error:
        got: Any = error
        status = rpc_status.from_call(got)
        info = error_details_pb2.ErrorInfo()
        if status is not None:
            assert status.details[0].Unpack(info)
        if (
            info.reason == "NOT_AUTHENTICATED"
            and error.details() != "the call has no credentials, or they are not accepted"
        ):
            raise AssertionError(error.details()) from error
        return error.code(), info.reason or None
    return grpc.StatusCode.OK, None


NOT_FOUND = (grpc.StatusCode.NOT_FOUND, "RESTAURANT_NOT_FOUND")
NOT_AUTHENTICATED = (grpc.StatusCode.UNAUTHENTICATED, "NOT_AUTHENTICATED")
SCOPE_MISSING = (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")


async def read(ledger: RunningLedger, *headers: str) -> tuple[grpc.StatusCode, str | None]:
    """The code of a call that needs the scope `read`; NOT_FOUND if the caller has it."""
    return await outcome_of(ledger.stub, "GetRestaurant", UNKNOWN_RESTAURANT, *headers)


# Accepted


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
async def test_jwt_of_the_issuer_is_accepted(
    guarded: RunningLedger, issuer: Issuer, algorithm: str
) -> None:
    """JWTs signed with each kind of key are accepted."""
    assert await read(guarded, f"Bearer {issuer.sign(algorithm)}") == NOT_FOUND


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": ["other", AUDIENCE]},
        {"nbf": -60},
        {"nbf": LEEWAY_SECONDS // 2},
        {"exp": -LEEWAY_SECONDS // 2},
        {"scope": "read"},
    ],
    ids=str,
)
async def test_jwt_may_have_optional_claims(
    guarded: RunningLedger, issuer: Issuer, claims: dict[str, Any]
) -> None:
    """A JWT may name several audiences and its start of validity; clocks may differ a little."""
    now = int(time.time())
    claims = {
        name: now + value if isinstance(value, int) else value for name, value in claims.items()
    }
    assert await read(guarded, f"Bearer {issuer.sign(**claims)}") == NOT_FOUND


async def test_static_token_is_accepted(guarded: RunningLedger) -> None:
    """The scheme may be written in upper or lower case."""
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert await read(guarded, f"{scheme} {ALL_SCOPES_TOKEN}") == NOT_FOUND


async def test_health_and_reflection_are_open(guarded: RunningLedger) -> None:
    """They need no token, as orchestrators have none."""
    check: Any = guarded.channel.unary_unary("/grpc.health.v1.Health/Check")
    assert await check(b"", timeout=60) == b"\x08\x01"


# Refused


def unsigned(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def hs256(issuer: Issuer, secret: bytes) -> str:
    """A JWT signed with the public key as if it were a secret.

    Signed by hand, since the library refuses to do it.
    """
    header = {"alg": "HS256", "typ": "JWT", "kid": "rsa"}
    signed = f"{unsigned(json.dumps(header))}.{unsigned(json.dumps(payload()))}"
    signature = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def bad_tokens(issuer: Issuer) -> dict[str, str]:
    """Bad tokens by what is wrong with them."""
    now = int(time.time())
    good = issuer.sign()
    head, claims, signature = good.split(".")
    admin = unsigned(json.dumps(payload(scope="ingest read payout admin")))
    none = unsigned(json.dumps({"alg": "none", "typ": "JWT"}))
    return {
        "expired": issuer.sign(exp=now - 60),
        "without exp": issuer.sign(exp=None),
        "not yet valid": issuer.sign(nbf=now + 3600),
        "issued in the future": issuer.sign(iat=now + 3600),
        "other issuer": issuer.sign(iss="https://else.test"),
        "without iss": issuer.sign(iss=None),
        "other audience": issuer.sign(aud="payroll"),
        "without aud": issuer.sign(aud=None),
        "without sub": issuer.sign(sub=None),
        "empty sub": issuer.sign(sub=""),
        "sub with a blank": issuer.sign(sub="two words"),
        "sub that is very long": issuer.sign(sub="x" * 257),
        "scope that is a list": issuer.sign(scope=["read"]),
        "exp that is no number": issuer.sign(exp="soon"),
        "exp without end": f"{head}.{unsigned(json.dumps(payload(exp=float('inf'))))}.{signature}",
        "alg none": f"{none}.{claims}.",
        "alg none with a signature": f"{none}.{claims}.{signature}",
        "HS256 with the RSA public key": hs256(issuer, issuer.rsa_public_pem),
        "other claims": f"{head}.{admin}.{signature}",
        "algorithm that is not allowed": issuer.sign("PS256"),
        "key of another kind": issuer.sign("RS256", header={"kid": "ec"}),
        "key that is in no key set": Issuer().sign(),
        "no key id where there are several": jwt.encode(payload(), issuer.rsa, "RS256"),
        "keys that the token itself names": jwt.encode(
            payload(), issuer.rsa, "RS256", headers={"jku": "https://evil.test/jwks"}
        ),
        "critical extension": issuer.sign(header={"crit": ["exp"], "exp": now}),
        "longer than allowed": issuer.sign(pad="x" * TOKEN_BYTES_MAX),
        "garbage": "garbage",
        "dots": "..",
        "deep": f"{unsigned('[' * 3000)}.{unsigned('[' * 1000)}.x",
        "hash of a static token": hashlib.sha256(TOKEN.encode()).hexdigest(),
        "static token with a letter more": f"{TOKEN}x",
    }


async def test_bad_tokens_are_refused(guarded: RunningLedger, issuer: Issuer) -> None:
    """Each bad token is refused twice with the same text; only the log gives the cause.

    The second refusal comes from memory.
    """
    for what, token in bad_tokens(issuer).items():
        for _ in range(2):
            assert await read(guarded, f"Bearer {token}") == NOT_AUTHENTICATED, what
    with capture_logs() as lines:
        assert await read(guarded, f"Bearer {issuer.sign(aud='audit')}") == NOT_AUTHENTICATED
    assert [line["because"] for line in lines if "because" in line] == [
        "InvalidAudienceError: Audience doesn't match"
    ]


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("",),
        ("Bearer",),
        ("Bearer ",),
        (TOKEN,),
        (f"Basic {TOKEN}",),
        (f"Bearer {TOKEN}", f"Bearer {TOKEN}"),
    ],
    ids=str,
)
async def test_call_without_a_bearer_token_is_refused(
    guarded: RunningLedger, headers: tuple[str, ...]
) -> None:
    """No authorization header, another scheme, or two headers."""
    assert await read(guarded, *headers) == NOT_AUTHENTICATED


async def test_token_of_a_megabyte_is_refused(guarded: RunningLedger) -> None:
    """The transport refuses it already; the connection survives."""
    code, _ = await read(guarded, f"Bearer {'x' * 1_000_000}")
    assert code in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAUTHENTICATED}
    assert await read(guarded, f"Bearer {ALL_SCOPES_TOKEN}") == NOT_FOUND


async def test_unauthenticated_calls_write_nothing(guarded: RunningLedger) -> None:
    """A stream, too, is refused before its first event."""
    event = event_message()
    request = ledger_pb2.IngestEventRequest(event=event)
    assert await outcome_of(guarded.stub, "IngestEvent", request) == NOT_AUTHENTICATED
    stream = guarded.stub.StreamEvents(iter([ledger_pb2.StreamEventsRequest(event=event)]))
    with pytest.raises(aio.AioRpcError) as caught:
        [_ async for _ in stream]
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert (
        await guarded.query(
            "SELECT 1 FROM processor_events WHERE event_id = :id", id=event.event_id
        )
        == []
    )


# Scopes


@pytest.mark.parametrize("method", sorted(METHODS))
async def test_method_takes_its_scope_and_no_other(
    guarded: RunningLedger, issuer: Issuer, method: str
) -> None:
    """A caller with every other scope is refused, and the refusal names the missing scope.

    A caller with only the scope of the method gets through.
    """
    needed = METHODS[method].scope
    others = issuer.sign(
        scope=" ".join(scope for scope in Scope if scope not in METHODS[method].scopes)
    )
    alone = issuer.sign(scope=needed)
    if method == "StreamEvents":
        codes = []
        for token in (others, alone):
            call = guarded.stub.StreamEvents(
                iter([ledger_pb2.StreamEventsRequest()]),
                metadata=[("authorization", f"Bearer {token}")],
            )
            with pytest.raises(aio.AioRpcError) as caught:
                [_ async for _ in call]
            codes.append(caught.value.code())
        assert codes == [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT]
        return

    async def empty_call(token: str) -> tuple[grpc.StatusCode, str | None]:
        call: Any = guarded.channel.unary_unary(METHODS[method].path)
        return await _outcome(
            call(b"", metadata=[("authorization", f"Bearer {token}")], timeout=60)
        )

    assert await empty_call(others) == SCOPE_MISSING
    code, _ = await empty_call(alone)
    assert code in {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}


def test_server_without_authentication_has_no_gates(folder: Path) -> None:
    """Without authentication no method has a gate, so a call costs nothing.

    With authentication every method of the services has one; health and reflection have none.
    """
    without, with_tokens = (
        Security(Settings(_env_file=None)),
        Security(Settings(_env_file=None, auth_tokens_file=folder / "tokens")),
    )
    for method in METHODS.values():
        assert without.gate(method) is None
        assert with_tokens.gate(method) is not None


# Certificates


async def test_client_certificate_identifies_the_caller(database: Database, tmp_path: Path) -> None:
    """The URIs of its alternative name decide, else its DNS names; never the common name.

    A certificate of the right authority whose name is in no line of the file has no scopes.
    """
    authority = Authority()
    authority.issue(*HERE).write(tmp_path / "server.pem", tmp_path / "server.key")
    (tmp_path / "clients.pem").write_bytes(authority.certificate_pem)
    (tmp_path / "identities").write_text("uri:spiffe://test/reader read\nreader.internal read\n")
    settings: dict[str, Any] = {
        "tls_certificate_file": tmp_path / "server.pem",
        "tls_key_file": tmp_path / "server.key",
        "tls_client_ca_file": tmp_path / "clients.pem",
        "auth_identities_file": tmp_path / "identities",
    }
    cases = {
        authority.issue(uri("spiffe://test/reader")): NOT_FOUND,
        authority.issue(uri("spiffe://test/other"), uri("spiffe://test/reader")): NOT_FOUND,
        authority.issue(dns("reader.internal")): NOT_FOUND,
        authority.issue(dns("reader.internal"), uri("spiffe://test/other")): SCOPE_MISSING,
        authority.issue(dns("spiffe://test/reader")): SCOPE_MISSING,
        authority.issue(uri("reader.internal")): SCOPE_MISSING,
        authority.issue(dns("uri:spiffe://test/reader")): SCOPE_MISSING,
        authority.issue(uri("dns:reader.internal")): SCOPE_MISSING,
        authority.issue(uri("spiffe://test/reader/further")): SCOPE_MISSING,
        authority.issue(dns("other.internal"), common_name="reader.internal"): SCOPE_MISSING,
        authority.issue(common_name="reader.internal"): NOT_AUTHENTICATED,
    }
    async with running_ledger(database, **settings) as ledger:
        for client, expected in cases.items():
            async with secure_channel(ledger.address, authority, client) as channel:
                stub = ledger_pb2_grpc.LedgerServiceStub(channel)
                assert await outcome_of(stub, "GetRestaurant", UNKNOWN_RESTAURANT) == expected
                assert await outcome_of(
                    stub, "PutRestaurant", ledger_pb2.PutRestaurantRequest()
                ) in (
                    SCOPE_MISSING,
                    NOT_AUTHENTICATED,
                )
        reader = next(iter(cases))
        async with secure_channel(ledger.address, authority, reader) as channel:
            stub = ledger_pb2_grpc.LedgerServiceStub(channel)
            assert await outcome_of(stub, "GetRestaurant", UNKNOWN_RESTAURANT) == NOT_FOUND
            (tmp_path / "identities").write_text("reader.internal read\n")
            ledger.security.reloader.reload(forced=True)
            assert await outcome_of(stub, "GetRestaurant", UNKNOWN_RESTAURANT) == SCOPE_MISSING


def test_identity_without_its_kind_is_read_where_only_one_is_possible(tmp_path: Path) -> None:
    """A name without its kind is a URI if it cannot be a DNS name, and the other way round.

    A name that could be either is refused.
    """
    path = tmp_path / "identities"
    path.write_text(
        "spiffe://house/admin admin\nurn:house:x read\n*.house.internal read\nhost_1 read\n"
        "dns:spiffe://house/odd read\nuri:host read\n"
    )
    assert set(read_identities(path)) == {
        *("uri:spiffe://house/admin", "uri:urn:house:x", "dns:*.house.internal", "dns:host_1"),
        *("dns:spiffe://house/odd", "uri:host"),
    }
    bad = {
        "host:50051 read": ":1: say which kind of name it is: uri:NAME or dns:NAME",
        "/house/admin read": ":1: say which kind of name it is",
        "uri: read": ":1: there is no name after uri:",
        "a.internal read\ndns:a.internal admin": ":2: an earlier line has the same identity",
        "spiffe://h/a read\nuri:spiffe://h/a admin": (":2: an earlier line has the same identity"),
    }
    for text, says in bad.items():
        path.write_text(text)
        with pytest.raises(FileUnusable, match=re.escape(says)):
            read_identities(path)


def secure_channel(address: str, authority: Authority, client: Issued) -> aio.Channel:
    """A channel that shows `client`."""
    credentials = grpc.ssl_channel_credentials(
        authority.certificate_pem, client.key_pem, client.certificate_pem
    )
    return aio.secure_channel(address, credentials)


# What is remembered, and for how long


class FakeContext:
    """The part of a call that an authenticator reads."""

    def __init__(self, token: str | None = None, client: Issued | None = None) -> None:
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._auth: dict[str, Any] = (
            {} if client is None else {"x509_pem_cert": [client.certificate_pem]}
        )

    def invocation_metadata(self) -> Any:
        return self._metadata

    def auth_context(self) -> dict[str, Any]:
        return self._auth


class Verifications:
    """An authenticator that counts its verifications; the test sets its time."""

    def __init__(self, folder: Path) -> None:
        self.now = time.time()
        self.count = 0
        self.verifier = JwtVerifier(
            folder / "jwks.json", issuer=ISSUER, audience=AUDIENCE, algorithms=ALGORITHMS
        )
        self.identities = folder / "identities"
        self.identities.write_text("spiffe://test/reader read\n")
        self.authenticator = Authenticator(
            tokens=None,
            jwt=self.verifier,
            identities=ReloadedFiles([self.identities], lambda: read_identities(self.identities)),
            clock=lambda: self.now,
        )
        verify = self.verifier.verify

        def counted(token: str) -> Any:
            self.count += 1
            return verify(token)

        self.verifier.verify = counted  # type: ignore[method-assign]

    def caller(self, token: str | None = None, client: Issued | None = None) -> Caller:
        context: Any = FakeContext(token, client)
        return self.authenticator.caller_of(context)


def test_accepted_token_is_verified_once_and_forgotten_when_it_expires(
    folder: Path, issuer: Issuer
) -> None:
    """It is remembered until it expires by the clock."""
    verifications = Verifications(folder)
    expires_at = int(verifications.now) + 60
    token = issuer.sign(exp=expires_at)
    expected = Caller(
        "gateway",
        Credential.JWT,
        frozenset({Scope.INGEST, Scope.READ}),
        expires_at + LEEWAY_SECONDS,
    )
    for _ in range(3):
        assert verifications.caller(token) == expected
    verifications.now = expires_at + LEEWAY_SECONDS - 0.001
    assert verifications.caller(token) == expected
    assert verifications.count == 1
    verifications.now += 0.001
    for _ in range(2):
        with pytest.raises(NotAuthenticated):
            verifications.caller(token)


def test_refused_token_is_verified_again_after_a_while(folder: Path, issuer: Issuer) -> None:
    """Not at once, so a flood of calls with one bad token costs little."""
    verifications = Verifications(folder)
    token = issuer.sign(aud="payroll")
    for _ in range(100):
        with pytest.raises(NotAuthenticated):
            verifications.caller(token)
    assert verifications.count == 1
    verifications.now += REFUSAL_SECONDS
    with pytest.raises(NotAuthenticated):
        verifications.caller(token)
    assert verifications.count == 2


def test_memory_is_bounded(folder: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest tokens are forgotten first, and verified again in their next call."""
    monkeypatch.setattr("ledger.api.access.authentication.REMEMBERED_MAX", 3)
    verifications = Verifications(folder)
    tokens = [issuer.sign("EdDSA", jti=str(number)) for number in range(4)]
    for token in (*tokens, *tokens[1:]):
        verifications.caller(token)
    assert verifications.count == 4
    verifications.caller(tokens[0])
    assert verifications.count == 5
    for number in range(10):
        with pytest.raises(NotAuthenticated):
            verifications.caller(f"garbage{number}")
    memories = (verifications.authenticator._accepted, verifications.authenticator._refused)
    assert [len(memory) for memory in memories] == [3, 3]


def test_certificate_expires_on_an_open_connection(folder: Path) -> None:
    """The expiry counts although the handshake was long before."""
    verifications = Verifications(folder)
    client = Authority().issue(uri("spiffe://test/reader"), lasts=timedelta(minutes=30))
    expires_at = client.certificate.not_valid_after_utc.timestamp()
    verifications.now = expires_at - 1
    assert verifications.caller(client=client).scopes == {Scope.READ}
    verifications.now = expires_at + 1
    with pytest.raises(NotAuthenticated):
        verifications.caller(client=client)


# Files that change


async def test_changed_files_take_effect_without_a_restart(
    shared_database: Database, tmp_path: Path
) -> None:
    """Removing a line revokes its token, also for open streams. A broken file changes nothing."""
    tokens = tmp_path / "tokens"
    tokens.write_text(token_line("gateway", "ingest,read", TOKEN))
    async with running_ledger(shared_database, auth_tokens_file=tokens) as ledger:
        assert await read(ledger, f"Bearer {TOKEN}") == NOT_FOUND
        stream = ledger.stub.StreamEvents(metadata=[("authorization", f"Bearer {TOKEN}")])
        await stream.write(ledger_pb2.StreamEventsRequest(event=event_message()))
        first: Any = await stream.read()
        assert first.result.status == ledger_pb2.INGEST_STATUS_CREATED
        tokens.write_text("gateway everything\n")
        with capture_logs() as lines:
            ledger.security.reloader.reload()
        assert [line["log_level"] for line in lines] == ["error"]
        assert await read(ledger, f"Bearer {TOKEN}") == NOT_FOUND
        tokens.write_text(token_line("gateway", "ingest,read", "ledger_new"))
        ledger.security.reloader.reload()
        assert await read(ledger, f"Bearer {TOKEN}") == NOT_AUTHENTICATED
        assert await read(ledger, "Bearer ledger_new") == NOT_FOUND
        await stream.write(ledger_pb2.StreamEventsRequest(event=event_message()))
        with pytest.raises(aio.AioRpcError) as caught:
            await stream.read()
            await stream.read()
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_a_comment(path: Path) -> None:
    path.write_text("# no caller\n")


@pytest.mark.parametrize("end", [remove, empty, replace_by_a_comment])
async def test_missing_token_file_lets_no_caller_in(
    shared_database: Database, tmp_path: Path, end: Any
) -> None:
    """From the next reload on, with an error in the log; a file written later is read."""
    tokens = tmp_path / "tokens"
    tokens.write_text(token_line("gateway", "read", TOKEN))
    async with running_ledger(shared_database, auth_tokens_file=tokens) as ledger:
        assert await read(ledger, f"Bearer {TOKEN}") == NOT_FOUND
        end(tokens)
        with capture_logs() as lines:
            ledger.security.reloader.reload()
        assert [(line["log_level"], line["event"]) for line in lines] == [
            ("error", "a file is missing or empty: it admits no caller")
        ]
        assert await read(ledger, f"Bearer {TOKEN}") == NOT_AUTHENTICATED
        tokens.write_text(token_line("gateway", "read", TOKEN))
        ledger.security.reloader.reload()
        assert await read(ledger, f"Bearer {TOKEN}") == NOT_FOUND


@pytest.mark.parametrize("end", [remove, empty, lambda path: path.write_text('{"keys": []}')])
def test_missing_key_set_verifies_no_token(tmp_path: Path, issuer: Issuer, end: Any) -> None:
    """A broken file, however, leaves the old keys in force."""
    path = tmp_path / "jwks.json"
    issuer.write(path)
    verifier = JwtVerifier(path, issuer=ISSUER, audience=AUDIENCE, algorithms=ALGORITHMS)
    path.write_text("broken")
    assert not verifier.keys.reload()
    assert verifier.verify(issuer.sign()).identity == "gateway"
    end(path)
    assert verifier.keys.reload()
    for token in (issuer.sign(), jwt.encode(payload(), issuer.rsa, "RS256")):
        with pytest.raises(TokenRefused):
            verifier.verify(token)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
@pytest.mark.parametrize("name", ["tokens", "jwks.json"])
def test_file_that_others_may_write_is_refused(
    tmp_path: Path, issuer: Issuer, name: str, mode: int
) -> None:
    """A server does not start with it.

    In a running server the earlier contents stay in force until the mode is corrected.
    """
    (tmp_path / "tokens").write_text(token_line("gateway", "ingest", TOKEN))
    issuer.write(tmp_path / "jwks.json")
    settings = Settings(
        _env_file=None,
        auth_tokens_file=tmp_path / "tokens",
        jwt_jwks_file=tmp_path / "jwks.json",
        jwt_issuer=ISSUER,
        jwt_audience=AUDIENCE,
    )
    security = Security(settings)
    (tmp_path / name).chmod(mode)
    with pytest.raises(
        SecurityMisconfigured, match="may be written by others than its owner: run chmod go-w"
    ):
        Security(settings)
    with capture_logs() as lines:
        security.reloader.reload()
    assert [(line["log_level"], line["event"]) for line in lines] == [
        ("error", "a new file is unusable: the old contents stay in force")
    ]
    (tmp_path / name).chmod(0o644)
    with capture_logs() as lines:
        security.reloader.reload()
    assert [line["event"] for line in lines] == ["files were read again"]


def test_file_of_another_user_is_refused(tmp_path: Path) -> None:
    """Its owner could write into it.

    Only root can make such a file, so another account skips the test.
    """
    path = tmp_path / "tokens"
    path.write_text(token_line("gateway", "ingest", TOKEN))
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    read_tokens(path)
    os.chown(path, 12345, -1)
    with pytest.raises(
        FileUnusable,
        match="belongs to the user 12345: it must belong to root or to the server's user 0",
    ):
        read_tokens(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no caller"),
        ("# no caller\n", "names no caller"),
        ("gateway ingest secret\n", ":1: a line must be: IDENTITY SCOPES SHA256"),
        (f"gateway ingest {'A' * 64}\n", ":1: a line must be"),
        (
            f"gateway everything {'a' * 64}\n",
            ":1: scopes must be some of ingest,ingest:processor,ingest:bank,"
            "ingest:adjustment,read,payout,pay,quarantine,admin",
        ),
        (f"gateway ingest, {'a' * 64}\n", ":1: scopes must be some of"),
        (
            f"gatewäy ingest {'a' * 64}\n",
            ":1: an identity has at most 256 printable ASCII characters",
        ),
        (
            f"a ingest {'a' * 64}\n\nb ingest {'a' * 64}\n",
            ":3: an earlier line has the same token",
        ),
        ("".join(f"a ingest {number:064}\n" for number in range(1001)), "has more than 1000 lines"),
    ],
)
def test_malformed_token_file_is_refused(tmp_path: Path, text: str, says: str) -> None:
    """The error names the line and does not show its text, which may be a token."""
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(FileUnusable) as caught:
        read_tokens(path)
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)


def bad_key_sets(issuer: Issuer) -> dict[str, Any]:
    """Bad key sets by the error that they cause."""
    keys = issuer.jwks["keys"]
    return {
        "is no JSON Web Key Set": [],
        "has no key for the algorithms": {"keys": []},
        "holds a secret: it must hold public keys only": {
            "keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "x"}]
        },
        "several keys need a kid each": {"keys": [keys[0], keys[1] | {"kid": "rsa"}]},
        "the key rsa cannot be used": {"keys": [{"kty": "RSA", "kid": "rsa"}]},
    }


def test_malformed_key_set_is_refused(tmp_path: Path, issuer: Issuer) -> None:
    """Above all, one with a secret key."""
    for says, contents in bad_key_sets(issuer).items():
        (tmp_path / "jwks.json").write_text(json.dumps(contents))
        with pytest.raises(FileUnusable, match=says):
            JwtVerifier(
                tmp_path / "jwks.json", issuer=ISSUER, audience=AUDIENCE, algorithms=ALGORITHMS
            )
    (tmp_path / "jwks.json").write_text("[" * 100_000)
    with pytest.raises(FileUnusable, match="is no JSON Web Key Set"):
        JwtVerifier(tmp_path / "jwks.json", issuer=ISSUER, audience=AUDIENCE, algorithms=ALGORITHMS)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"grpc_address": "0.0.0.0:50051"},
            "0.0.0.0:50051 can be called from other machines, and there is no TLS",
        ),
        ({"grpc_address": "[::]:50051"}, "[::]:50051 can be called from other machines"),
        (
            {"grpc_address": "192.168.1.7:50051"},
            "192.168.1.7:50051 can be called from other machines",
        ),
        (
            {"grpc_address": "ledger.internal:50051"},
            "ledger.internal:50051 can be called from other machines",
        ),
        ({"grpc_address": "*:50051"}, "*:50051 can be called from other machines"),
        (
            {"grpc_address": "0.0.0.0:50051", "auth_tokens_file": "tokens"},
            "0.0.0.0:50051 can be called from other machines",
        ),
        (
            {
                "grpc_address": "0.0.0.0:50051",
                "tls_certificate_file": "server.pem",
                "tls_key_file": "server.key",
            },
            "0.0.0.0:50051 can be called from other machines, and there is no authentication "
            "(LEDGER_AUTH_TOKENS_FILE",
        ),
        (
            {"jwt_jwks_file": "jwks.json", "jwt_issuer": ISSUER},
            "LEDGER_JWT_JWKS_FILE does nothing without LEDGER_JWT_AUDIENCE",
        ),
        (
            {"jwt_jwks_file": "jwks.json", "jwt_audience": "x"},
            "LEDGER_JWT_JWKS_FILE does nothing without LEDGER_JWT_ISSUER",
        ),
        ({"jwt_issuer": ISSUER}, "LEDGER_JWT_ISSUER does nothing without LEDGER_JWT_JWKS_FILE"),
        (
            {"auth_identities_file": "x"},
            "LEDGER_AUTH_IDENTITIES_FILE does nothing without LEDGER_TLS_CLIENT_CA_FILE",
        ),
        (
            {"rate_limit_calls_per_second": 5},
            "LEDGER_RATE_LIMIT_CALLS_PER_SECOND is a limit for each caller",
        ),
        (
            {"rate_limit_burst_calls": 5},
            "LEDGER_RATE_LIMIT_BURST_CALLS does nothing without LEDGER_RATE_LIMIT_CALLS_PER_SECOND",
        ),
        (
            {
                "tls_certificate_file": "server.pem",
                "tls_key_file": "server.key",
                "tls_client_ca_file": "clients.pem",
            },
            "LEDGER_TLS_CLIENT_CA_FILE lets every caller with a certificate do anything",
        ),
        ({"auth_tokens_file": "missing"}, "cannot read missing: No such file or directory"),
    ],
    ids=str,
)
def test_settings_that_let_any_caller_in_are_refused(settings: dict[str, Any], says: str) -> None:
    """The server refuses to start and names the setting to change."""
    with pytest.raises(SecurityMisconfigured) as caught:
        Security(Settings(_env_file=None, **settings))
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    "settings",
    [
        {"grpc_address": "127.0.0.1:50051"},
        {"grpc_address": "127.0.0.9:50051"},
        {"grpc_address": "localhost:50051"},
        {"grpc_address": "[::1]:50051"},
        {"grpc_address": "unix:/run/ledger.sock"},
        {"grpc_address": "0.0.0.0:50051", "allow_insecure": True},
    ],
    ids=str,
)
def test_settings_that_let_no_stranger_in_are_accepted(settings: dict[str, Any]) -> None:
    """Loopback, unix sockets, and what a setting allows explicitly."""
    Security(Settings(_env_file=None, **settings))
