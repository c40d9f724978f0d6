"""The tables, links and commands of the documentation are right."""

import re
from pathlib import Path

import pytest

from ledger.domain.chart_of_accounts import NORMAL_SIDE
from ledger.domain.posting_rules import (
    EVENT_POSTING_RULES,
    PAYMENT_POSTING_RULES,
    PAYOUT_POSTING_RULES,
)
from ledger.gateway import reasons
from ledger.infrastructure.postgres.verification.audit import load_checks
from ledger.infrastructure.postgres.verification.doctor import CHECKS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def table(heading: str, page_name: str = "accounting.md") -> list[list[str]]:
    """The rows of the first table below a heading of a page, without code marks."""
    page = (ROOT / "docs" / page_name).read_text()
    section = page.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row] for row in rows[2:]]


def test_chart_of_accounts_is_documented_as_it_is() -> None:
    """The accounts with their normal sides, in their order."""
    assert [row[:2] for row in table("Chart of accounts")] == [
        [account.value, side.value] for account, side in NORMAL_SIDE.items()
    ]


def test_posting_rules_are_documented_as_they_are() -> None:
    """Row by row."""
    assert table("Posting rules") == [
        [
            event_type.value,
            rule.entry_type.value,
            rule.debit.value,
            rule.credit.value,
            rule.amount.value,
            rule.available.value,
        ]
        for event_type, rules in EVENT_POSTING_RULES.items()
        for rule in rules
    ]


def test_payment_posting_rules_are_documented_as_they_are() -> None:
    """Row by row: each step, in whose books."""
    assert table("What payments post") == [
        [
            step.value,
            books,
            rule.entry_type.value,
            rule.debit.value,
            rule.credit.value,
            rule.amount.value,
            rule.available.value,
        ]
        for step, rules in PAYMENT_POSTING_RULES.items()
        for books, posted in (
            ("payer", (rules.payer,)),
            ("account", rules.payee_account),
            ("restaurant", rules.payee_restaurant),
        )
        for rule in posted
    ]


def test_payout_posting_rules_are_documented_as_they_are() -> None:
    """Row by row."""
    assert table("What payouts post") == [
        [
            state,
            rule.entry_type.value,
            rule.debit.value,
            rule.credit.value,
            rule.amount.value,
            rule.available.value,
        ]
        for state, rule in PAYOUT_POSTING_RULES.items()
    ]


def test_pages_say_how_many_checks_the_audit_has() -> None:
    """Where they show what `ledger verify` prints. The chain of seals has fewer than ten."""
    found = [
        (page.name, int(number))
        for page in PAGES
        for number in re.findall(r"\b([0-9]{2,}) checks\b", page.read_text())
    ]
    assert {name for name, _ in found} == {
        "README.md",
        "questions.md",
        "settlement.md",
        "tutorial.md",
    }
    assert {number for _, number in found} == {len(load_checks())}


def test_checks_of_the_doctor_are_documented() -> None:
    """All checks of `ledger doctor`, in their order."""
    rows = table("Is the database fit?", "operations/databases.md")
    assert [row[0] for row in rows] == list(CHECKS)


def test_reasons_of_the_gateway_are_documented() -> None:
    """All reasons that any endpoint may have."""
    rows = table("Why a delivery is not booked", "gateway.md")
    listed = [reason for row in rows for reason in row[0].split(", ")]
    assert listed == [value for name, value in vars(reasons).items() if name.isupper()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page: Path) -> None:
    """Every relative link of a page leads to a file of the project."""
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_headings_exist(page: Path) -> None:
    """Every anchor of a relative link is a heading of that page."""
    links = re.findall(r"\]\(([^)#:]*)#([^)]*)\)", page.read_text())
    missing = [
        (target, anchor)
        for target, anchor in links
        if anchor not in anchors(page.parent / target if target else page)
    ]
    assert missing == []


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_make_targets_exist(page: Path) -> None:
    """Those that a page names as `make target`."""
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", page.read_text()))
    assert sorted(named - targets) == []


@pytest.mark.parametrize("page", ["architecture.md", "contributing.md"])
def test_guides_name_what_exists(page: str) -> None:
    """Each path in code marks is a file or folder, or the end of its path, such as `gate.py`.

    Each name in code marks is somewhere in the source or the tests.
    """
    text = re.sub(r"^```.*?^```$", "", (ROOT / "docs" / page).read_text(), flags=re.M | re.S)
    marked = {" ".join(words.split()) for words in re.findall(r"`([^`]+)`", text)}
    files = [
        path
        for top in ("alembic", "docs", "proto", "scripts", "sql", "src", "tests")
        for path in (ROOT / top).rglob("*")
        if "__pycache__" not in path.parts
    ]
    ends = [f"/{path.relative_to(ROOT)}{'/' if path.is_dir() else ''}" for path in files]
    ends += [f"/{path.name}" for path in ROOT.iterdir()]
    sources = "\n".join(
        path.read_text() for path in files if path.suffix in (".py", ".sql", ".proto")
    )
    words = set(re.findall(r"\w+", sources))
    for mark in sorted(marked):
        if re.fullmatch(r"[\w./-]+(/|\.(json|md|proto|py|sql|toml|txt))", mark):
            assert any(end.endswith(f"/{mark}") for end in ends), f"{mark} does not exist"
        elif re.fullmatch(r"_?[A-Za-z]\w+(\(\))?", mark):
            assert mark.removesuffix("()") in words, f"{mark} is in no source"
