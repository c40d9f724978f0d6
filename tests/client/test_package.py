"""The client as its callers install it: typed from outside, and on few packages."""

import re
import subprocess
import sys
from pathlib import Path

import ledger.client

ROOT = Path(__file__).parents[2]

# What a caller writes. Every name of the package is imported, and a few types are revealed.
CALLER = """
import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime

from ledger.client import {names}
from ledger.v1 import ledger_pb2


def book(ledger: Ledger, amount: Money) -> Money:
    try:
        ledger.ingest_event(
            event_id="stripe:ch_1",
            type="charge_succeeded",
            restaurant_id="res_1",
            amount=amount,
            fee=Money("0.50", "PEN"),
            occurred_at=datetime.now(UTC),
        )
    except (Conflict, InvalidRequest) as error:
        fields: list[str] = [violation.field for violation in error.violations]
        raise SystemExit(error.reason + error.metadata.get("event_id", "") + ",".join(fields))
    except LedgerError as error:
        print(error.code, error.retry_after)
    return ledger.get_balance("res_1", "PEN").available


def amounts(ledger: Ledger) -> list[int]:
    run = ledger.run_payouts("PEN", as_of=date(2026, 1, 31), wait=True)
    assert run.state == ledger_pb2.PAYOUT_RUN_STATE_SUCCEEDED
    stub = ledger.service.GetPayout(ledger_pb2.GetPayoutRequest(payout_id="x"))
    return [entry.amount_minor for entry in ledger.list_entries("res_1", "PEN")] + [
        stub.payout.amount_minor
    ]


async def stream(events: AsyncIterator[ledger_pb2.ProcessorEvent]) -> None:
    async def renew() -> Token:
        return Token("secret", expires_at=datetime.now(UTC))

    credentials = Credentials(tls_ca="ca.pem", token=renew)
    async with AsyncLedger("ledger:50051", credentials=credentials) as ledger:
        async for outcome in ledger.stream_events(events):
            reveal_type(outcome)
        async for payout in ledger.list_payouts(states=["created", "submitted"]):
            reveal_type(payout)
        reveal_type(await ledger.payments.GetPayment(payment_request()))


def payment_request() -> "payment_pb2.GetPaymentRequest":
    return payment_pb2.GetPaymentRequest(payment_id="pay_1")


from ledger.v1 import payment_pb2
"""
WRONG = """
from ledger.client import Ledger, Money

ledger = Ledger()
ledger.get_balance("res_1")
ledger.run_payouts("PEN", as_of="2026-01-31")
ledger.list_payouts(states=["creatd"])
Money(12.5, "PEN")
Money("1.00", "PEN") + 1
"""
# Where mypy keeps what it knows of gRPC and protobuf from one run to the next.
CACHE = ROOT / ".cache" / "mypy-of-callers"

PLAIN = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ImportError(f"{name} is not a plain dependency")

allowed = {"ledger", "grpc", "grpc_status", "google", "typing_extensions", *sys.stdlib_module_names}
sys.meta_path.insert(0, Refuse())
import ledger.client
for name in ledger.client._MODULE_BY_NAME:
    getattr(ledger.client, name)
ledger.client.Ledger("127.0.0.1:1").close()
for module in sys.modules:
    parts = module.split(".")
    if parts[0] == "ledger" and parts[1:]:
        print(".".join(parts[:2]) if parts[1] != "domain" else module)
"""


def names() -> list[str]:
    """The names that the package exports, as type checkers see them."""
    text = Path(ledger.client.__file__).read_text(encoding="utf-8")
    return re.findall(r"^    from ledger\.client\.\w+ import (\w+) as \1$", text, re.MULTILINE)


def checked(tmp_path: Path, text: str) -> list[str]:
    """What `mypy --strict` prints about a caller's file, outside of this repository."""
    (tmp_path / "caller.py").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(CACHE), "caller.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.stdout.splitlines() + done.stderr.splitlines()


def test_callers_are_checked_by_mypy_strict(tmp_path: Path) -> None:
    """The package is typed: no error in right code, the right types, an error for each mistake."""
    right = checked(tmp_path, CALLER.replace("{names}", ", ".join(names())))
    assert [line.partition("note: ")[2] for line in right[:-1]] == [
        'Revealed type is "ledger.client.outcomes.EventOutcome"',
        'Revealed type is "ledger.v1.ledger_pb2.Payout"',
        'Revealed type is "ledger.v1.payment_pb2.GetPaymentResponse"',
    ], right
    wrong = [line for line in checked(tmp_path, WRONG) if "error: " in line]
    assert [line.split(":")[1] for line in wrong] == ["5", "6", "7", "8", "9"], wrong


def test_type_checkers_and_programs_see_the_same_names() -> None:
    assert sorted(names()) == sorted(ledger.client._MODULE_BY_NAME)
    assert all(hasattr(ledger.client, name) for name in names())
    assert not hasattr(ledger.client, "Legder")
    imported: dict[str, object] = {}
    exec("from ledger.client import *", imported)
    assert imported.keys() > set(names())


def test_client_needs_the_plain_dependencies_alone() -> None:
    """Nothing of the server's or the command's packages is imported, nor their parts of ours."""
    done = subprocess.run(
        [sys.executable, "-c", PLAIN], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {
        "ledger.addresses",
        "ledger.client",
        "ledger.domain",
        "ledger.domain.money",
        "ledger.limits",
        "ledger.v1",
    }


def test_money_alone_does_not_load_grpc() -> None:
    program = "import sys; from ledger.client import Money; print('grpc' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
