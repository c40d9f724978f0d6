"""What goes along with every call: a request id, and the token."""

import os
from collections.abc import Sequence

from ledger.client.channels import Usable
from ledger.client.errors import REQUEST_ID_KEY
from ledger.client.tokens import TokenSource

_AUTHORIZATION = "authorization"
Metadata = tuple[tuple[str, str | bytes], ...]
GivenMetadata = Sequence[tuple[str, str | bytes]] | None


class Frame:
    """Makes the metadata of calls."""

    def __init__(self, usable: Usable, tokens: TokenSource | None) -> None:
        self.usable = usable
        self.tokens = tokens

    def metadata(self, given: GivenMetadata) -> Metadata:
        """What the caller gives, with a request id if it has none.

        Attempts of one call have one id. Raises ClosedError.
        """
        self.usable.check()
        metadata = tuple(given or ())
        if any(key == REQUEST_ID_KEY for key, _ in metadata):
            return metadata
        return (*metadata, (REQUEST_ID_KEY, os.urandom(16).hex()))

    def may_repeat(self, token: str | None) -> bool:
        """Whether a call that was refused as not authenticated may succeed with another token."""
        return token is not None and self.tokens is not None and self.tokens.refused(token)


def with_token(metadata: Metadata, token: str | None) -> Metadata:
    """The metadata with the token, if there is one."""
    return metadata if token is None else (*metadata, (_AUTHORIZATION, f"Bearer {token}"))


def request_id_of(metadata: Metadata) -> str:
    """The request id in the metadata."""
    return next((str(value) for key, value in metadata if key == REQUEST_ID_KEY), "")
