"""Names of accounts in plain-text accounting."""

import re

import pytest
from beancount.core.account import is_valid
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.plain_text import id_of

from ledger.cli.accounting.names import account_name, component_of
from ledger.domain.chart_of_accounts import CLASS_OF, NORMAL_SIDE, AccountClass, LedgerAccount, Side
from ledger.domain.fields import is_id
from ledger.domain.journals import Holder

IDS = st.from_regex(re.compile(r"[A-Za-z0-9._:-]{1,128}\Z", re.ASCII), fullmatch=True)


# On a machine that is busy, ids are drawn slowly.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(IDS)
def test_every_id_has_a_name_that_only_it_has(id_: str) -> None:
    """The id can be read from the component, so no two ids share one; Beancount takes the name."""
    assert is_id(id_)
    component = component_of(id_)
    assert id_of(component) == id_
    assert is_valid(account_name(Holder(restaurant_id=id_), "restaurant_payable"))
    assert is_valid(account_name(Holder(account_id=id_), "account_funds"))


@pytest.mark.parametrize(
    ("id_", "component"),
    [
        ("res_001", "Res--001"),
        ("Ana", "A-una"),
        ("stripe:a.b", "Stripe-ca-db"),
        ("_x-1", "X-x--x-h1"),
        ("7-eleven", "7-heleven"),
    ],
)
def test_names_can_be_read(id_: str, component: str) -> None:
    assert component_of(id_) == component


def test_every_ledger_account_has_a_class_that_fits_its_normal_side() -> None:
    """Assets and expenses grow by debits, liabilities and income by credits; equity by either."""
    sides = {
        AccountClass.ASSETS: Side.DEBIT,
        AccountClass.EXPENSES: Side.DEBIT,
        AccountClass.LIABILITIES: Side.CREDIT,
        AccountClass.INCOME: Side.CREDIT,
    }
    assert list(CLASS_OF) == list(LedgerAccount)
    for account, account_class in CLASS_OF.items():
        assert sides.get(account_class, NORMAL_SIDE[account]) is NORMAL_SIDE[account], account


@pytest.mark.parametrize("account", LedgerAccount)
def test_every_ledger_account_has_a_name_of_its_own(account: LedgerAccount) -> None:
    """For each kind of holder; the platform has no id."""
    holders = (Holder(restaurant_id="x"), Holder(account_id="x"), Holder())
    names = {account_name(holder, account.value) for holder in holders}
    assert len(names) == len(holders)
    assert all(is_valid(name) for name in names)
    others = {account_name(Holder(), other.value) for other in LedgerAccount if other != account}
    assert not names & others
