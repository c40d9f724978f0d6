"""Fixtures of the tests of the api."""

import pytest
from support.tokens import Issuer


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    """An issuer of JWTs, whose keys are made once per module."""
    return Issuer()
