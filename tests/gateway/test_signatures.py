"""Secrets in rotation and the age of signatures."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ledger.gateway.deliveries import SignatureRefused
from ledger.gateway.endpoints import Secret
from ledger.gateway.signatures import SigningSecret, read_secrets, refuse_stale, signing_secret

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
OLD = SigningSecret("old", "s1", not_after=NOW)
NEW = SigningSecret("new", "s2")


def sign(secret: str) -> bytes:
    return f"signed by {secret}".encode()


@pytest.mark.parametrize(
    ("at", "signatures", "name"),
    [
        (NOW - timedelta(seconds=1), [b"signed by s1"], "old"),
        (NOW - timedelta(seconds=1), [b"other", b"signed by s2"], "new"),
        (NOW - timedelta(seconds=1), [b"signed by s2", b"signed by s1"], "old"),
        (NOW, [b"signed by s1"], None),
        (NOW, [b"signed by s1", b"signed by s2"], "new"),
        (NOW, [], None),
        (NOW, [b""], None),
    ],
)
def test_the_secret_that_signed_is_named(
    at: datetime, signatures: list[bytes], name: str | None
) -> None:
    """The first secret that is in force and makes one of the signatures; else it is refused."""
    if name is None:
        with pytest.raises(SignatureRefused):
            signing_secret([OLD, NEW], at, sign, signatures)
    else:
        assert signing_secret([OLD, NEW], at, sign, signatures) == name


@pytest.mark.parametrize(
    ("signed_at", "is_fresh"),
    [
        (str(int(NOW.timestamp())), True),
        (str(int(NOW.timestamp()) - 300), True),
        (str(int(NOW.timestamp()) + 300), True),
        (str(int(NOW.timestamp()) - 301), False),
        (str(int(NOW.timestamp()) + 301), False),
        ("", False),
        ("-1", False),
        ("1e9", False),
        ("٣", False),
        ("9" * 5000, False),
    ],
)
def test_a_signature_is_fresh_for_five_minutes(signed_at: str, is_fresh: bool) -> None:
    """Both ways: a sender whose clock is ahead is no better than one that repeats."""
    if is_fresh:
        refuse_stale(signed_at, NOW)
    else:
        with pytest.raises(SignatureRefused):
            refuse_stale(signed_at, NOW)


def test_secrets_are_read_with_their_names_and_ends() -> None:
    """What the file says of a secret, with its text."""
    assert read_secrets(
        [Secret(name="old", value="s1", not_after=NOW), Secret(name="new", value="s2")]
    ) == (OLD, NEW)


def test_blanks_around_a_secret_are_not_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files and variables easily end with a line feed. One of blanks alone would let all in."""
    (tmp_path / "secret").write_text("s1\n", encoding="utf-8")
    monkeypatch.setenv("A_SECRET", " s1\r\n")
    sources: list[dict[str, Any]] = [{"file": tmp_path / "secret"}, {"variable": "A_SECRET"}]
    for source in sources:
        assert Secret(name="x", **source).read() == "s1"
    with pytest.raises(ValueError, match="secret x is empty"):
        Secret(name="x", value=" \n").read()
