"""Reads plain-text accounting with the programs that it is made for."""

import csv
import io
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from beancount import loader
from beancount.core import realization
from beancount.core.data import Transaction

from ledger.domain.money import EXPONENT_BY_CURRENCY

# The account's name and the currency.
AccountAndCurrency = tuple[str, str]
HLEDGER = shutil.which("hledger")


def beancount_balances(path: Path) -> Counter[AccountAndCurrency]:
    """What Beancount makes of a file, in minor units. The file must be without any error."""
    entries, errors, _ = loader.load_file(str(path))
    assert errors == [], errors[:3]
    balances: Counter[AccountAndCurrency] = Counter()
    accounts: Any = realization
    for account in accounts.iter_children(accounts.realize(entries)):
        for position in account.balance:
            units = position.units
            balances[account.account, units.currency] += minor_of(str(units.number), units.currency)
    return balances


def beancount_errors(path: Path) -> list[str]:
    """What Beancount finds wrong with a file."""
    _, errors, _ = loader.load_file(str(path))
    return [str(error.message) for error in errors]


def beancount_transactions(path: Path) -> list[Transaction]:
    """The transactions of a file, those of opening balances as well."""
    entries, errors, _ = loader.load_file(str(path))
    assert errors == [], errors[:3]
    return [entry for entry in entries if isinstance(entry, Transaction)]


def hledger_balances(path: Path) -> Counter[AccountAndCurrency]:
    """What hledger makes of a file, in minor units, after its strict checks."""
    run_hledger(path, "check", "--strict")
    table = run_hledger(path, "balance", "--flat", "--no-total", "--layout=bare", "-O", "csv")
    balances: Counter[AccountAndCurrency] = Counter()
    for row in csv.DictReader(io.StringIO(table)):
        if row["commodity"]:
            balances[row["account"], row["commodity"]] += minor_of(row["balance"], row["commodity"])
    return balances


def run_hledger(path: Path, *arguments: str) -> str:
    """What hledger prints about a file."""
    assert HLEDGER is not None
    ended = subprocess.run(
        [HLEDGER, "-f", str(path), *arguments], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def minor_of(amount: str, currency: str) -> int:
    """An amount with a point in minor units, exactly."""
    whole, _, fraction = amount.partition(".")
    exponent = EXPONENT_BY_CURRENCY[currency]
    assert re.fullmatch("-?[0-9]+", whole), amount
    assert len(fraction.rstrip("0")) <= exponent, amount
    digits = fraction.rstrip("0").ljust(exponent, "0")
    return int(f"{whole}{digits}")


def id_of(component: str) -> str:
    """The id of a component of a name: the escapes undone, one sign after the other."""
    match = re.fullmatch("([A-Z0-9])(-u|-x)?(.*)", component)
    assert match is not None, component
    first = {"-u": match[1], "-x": "", None: match[1].lower()}[match[2]]
    found, rest = first, match[3]
    while rest:
        length = 2 if rest[0] == "-" else 1
        sign = {"--": "_", "-h": "-", "-d": ".", "-c": ":"}.get(rest[:length], rest[:length])
        assert len(sign) == 1, component
        found, rest = found + sign, rest[length:]
    return found
