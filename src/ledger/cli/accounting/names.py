"""The names of accounts in plain-text accounting: valid in Beancount and in hledger."""

from functools import lru_cache

from ledger.domain.chart_of_accounts import CLASS_OF, LedgerAccount
from ledger.domain.journals import Holder

# The characters of ids that no component of a name may have. `-` begins an escape.
_ESCAPES = {"_": "--", "-": "-h", ".": "-d", ":": "-c"}
# Behind the first letter: it is a capital in the id, too.
_IS_CAPITAL = "-u"
# Behind a first letter that the id does not have.
_IS_ADDED = "-x"


def component_of(id_: str) -> str:
    """The id as a component of an account's name; no two ids have the same.

    A component begins with a capital or a digit, and goes on with letters, digits and hyphens.

        res_001      Res--001
        Ana          A-una
        stripe:a.b   Stripe-ca-db
        _x-1         X-x--x-h1
    """
    escaped = "".join(_ESCAPES.get(character, character) for character in id_)
    first = escaped[0]
    if first.isdigit():
        return escaped
    if first.isupper():
        return f"{first}{_IS_CAPITAL}{escaped[1:]}"
    if first == "-":
        return f"X{_IS_ADDED}{escaped}"
    return f"{first.upper()}{escaped[1:]}"


@lru_cache(maxsize=4096)
def account_name(holder: Holder, ledger_account: str) -> str:
    """The name of a holder's ledger account: `Liabilities:Restaurants:Res--001:Restaurant-payable`.

    Raises ValueError for a ledger account that the chart does not have.
    """
    account = LedgerAccount(ledger_account)
    if holder.restaurant_id is not None:
        of_holder = f"Restaurants:{component_of(holder.restaurant_id)}"
    elif holder.account_id is not None:
        of_holder = f"Accounts:{component_of(holder.account_id)}"
    else:
        of_holder = "Platform"
    return f"{CLASS_OF[account].capitalize()}:{of_holder}:{last_component(account)}"


def last_component(account: LedgerAccount) -> str:
    """The last component of the names of a ledger account: `Restaurant-payable`."""
    return account.value.replace("_", "-").capitalize()
