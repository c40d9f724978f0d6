"""Money: integer minor units of ISO 4217 currencies. There is no float here, and no division.

The table is frozen on purpose: a code that ISO withdraws stays valid, so that books kept in it can
still be read and paid out. Codes without an exponent (gold, SDRs, test codes) are not money that a
card payment can carry.
"""

import re

# The most that one event may move, in minor units. An int64 sum has room for 9 million such events.
AMOUNT_MINOR_MAX = 10**12
INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)

AMOUNT_RULE = f"must be 1 to {AMOUNT_MINOR_MAX} minor units"
PAYOUT_AMOUNT_RULE = "must be at least 1 minor unit"
CURRENCY_RULE = "must be an ISO 4217 code in upper case"

# The currencies by the number of decimals of an amount: List One of ISO 4217 as of 2026-01-01. The
# last line of those with two decimals has the codes that ISO has withdrawn since 2020.
_CODES_BY_EXPONENT = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: (
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN "
        "BZD CAD CDF CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD "
        "FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW "
        "KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR "
        "MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG "
        "SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD "
        "USN UYU UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG "
        "ANG BGN CUC HRK SLL ZWL"
    ),
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}

EXPONENT_BY_CURRENCY: dict[str, int] = {
    code: exponent for exponent, codes in _CODES_BY_EXPONENT.items() for code in codes.split()
}


def is_currency(code: str) -> bool:
    """Whether `code` is a currency the ledger keeps books in: upper case, nothing trimmed."""
    return code in EXPONENT_BY_CURRENCY


def format_minor(amount_minor: int, currency: str) -> str:
    """The amount as people write it, with the currency's digits: 1250 PEN is 12.50, 1250 JPY is
    1250. No grouping.
    """
    exponent = EXPONENT_BY_CURRENCY[currency]
    sign = "-" if amount_minor < 0 else ""
    digits = str(abs(amount_minor)).rjust(exponent + 1, "0")
    return f"{sign}{digits[:-exponent]}.{digits[-exponent:]}" if exponent else f"{sign}{digits}"


def parse_major(text: str, currency: str) -> int:
    """The minor units of an amount as people write it: 12.50 PEN is 1250, 12 PEN is 1200, 1250 JPY
    is 1250.

    Either all of the currency's decimals or none. Raises ValueError for any other text, with the
    rule in words.
    """
    if not is_currency(currency):
        if is_currency(currency.upper()):
            raise ValueError(f"is in {currency!r}: currencies are in upper case")
        raise ValueError(f"is in {currency!r}, which is no currency known here")
    exponent = EXPONENT_BY_CURRENCY[currency]
    decimals = f"(?:[.]([0-9]{{{exponent}}}))?" if exponent else "()"
    match = re.fullmatch(f"([0-9]{{1,19}}){decimals}", text)
    if match is None:
        examples = f"12.{'0' * exponent} or 12" if exponent else "12"
        raise ValueError(
            f"must be an amount in {currency} such as {examples}, with a point and no other signs"
        )
    return int(match[1] + (match[2] or "0" * exponent))
