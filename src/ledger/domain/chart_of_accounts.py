"""The chart of accounts: the lines of books of a restaurant, of an account or of the platform."""

from enum import StrEnum


class Side(StrEnum):
    """The two sides of an account."""

    DEBIT = "debit"
    CREDIT = "credit"


class AccountClass(StrEnum):
    """The five classes of accounts, as accountants and plain-text accounting name them."""

    ASSETS = "assets"
    LIABILITIES = "liabilities"
    INCOME = "income"
    EXPENSES = "expenses"
    EQUITY = "equity"


class LedgerAccount(StrEnum):
    """A line of the chart. The value is the name in the database."""

    PROCESSOR_CLEARING = "processor_clearing"
    RESTAURANT_PAYABLE = "restaurant_payable"
    PAYOUT_RESERVED = "payout_reserved"
    PLATFORM_FEES = "platform_fees"
    PLATFORM_CASH = "platform_cash"
    DISPUTE_RECEIVABLE = "dispute_receivable"
    DISPUTE_HOLD = "dispute_hold"
    ADJUSTMENTS = "adjustments"
    ACCOUNT_FUNDS = "account_funds"
    ACCOUNT_HELD = "account_held"
    INTERACCOUNT = "interaccount"
    PROCESSOR_COSTS = "processor_costs"
    TAX_WITHHELD = "tax_withheld"
    RESERVE_HOLD = "reserve_hold"
    BAD_DEBT = "bad_debt"


# The side on which an account grows.
NORMAL_SIDE: dict[LedgerAccount, Side] = {
    LedgerAccount.PROCESSOR_CLEARING: Side.DEBIT,
    LedgerAccount.RESTAURANT_PAYABLE: Side.CREDIT,
    LedgerAccount.PAYOUT_RESERVED: Side.CREDIT,
    LedgerAccount.PLATFORM_FEES: Side.CREDIT,
    LedgerAccount.PLATFORM_CASH: Side.DEBIT,
    LedgerAccount.DISPUTE_RECEIVABLE: Side.DEBIT,
    LedgerAccount.DISPUTE_HOLD: Side.CREDIT,
    LedgerAccount.ADJUSTMENTS: Side.DEBIT,
    LedgerAccount.ACCOUNT_FUNDS: Side.CREDIT,
    LedgerAccount.ACCOUNT_HELD: Side.CREDIT,
    LedgerAccount.INTERACCOUNT: Side.DEBIT,
    LedgerAccount.PROCESSOR_COSTS: Side.DEBIT,
    LedgerAccount.TAX_WITHHELD: Side.CREDIT,
    LedgerAccount.RESERVE_HOLD: Side.CREDIT,
    LedgerAccount.BAD_DEBT: Side.DEBIT,
}

# Where an account stands in a balance sheet or an income statement. interaccount is equity: it says
# what came in from other books, and is nothing over all books together.
CLASS_OF: dict[LedgerAccount, AccountClass] = {
    LedgerAccount.PROCESSOR_CLEARING: AccountClass.ASSETS,
    LedgerAccount.RESTAURANT_PAYABLE: AccountClass.LIABILITIES,
    LedgerAccount.PAYOUT_RESERVED: AccountClass.LIABILITIES,
    LedgerAccount.PLATFORM_FEES: AccountClass.INCOME,
    LedgerAccount.PLATFORM_CASH: AccountClass.ASSETS,
    LedgerAccount.DISPUTE_RECEIVABLE: AccountClass.ASSETS,
    LedgerAccount.DISPUTE_HOLD: AccountClass.LIABILITIES,
    LedgerAccount.ADJUSTMENTS: AccountClass.EXPENSES,
    LedgerAccount.ACCOUNT_FUNDS: AccountClass.LIABILITIES,
    LedgerAccount.ACCOUNT_HELD: AccountClass.LIABILITIES,
    LedgerAccount.INTERACCOUNT: AccountClass.EQUITY,
    LedgerAccount.PROCESSOR_COSTS: AccountClass.EXPENSES,
    LedgerAccount.TAX_WITHHELD: AccountClass.LIABILITIES,
    LedgerAccount.RESERVE_HOLD: AccountClass.LIABILITIES,
    LedgerAccount.BAD_DEBT: AccountClass.EXPENSES,
}
