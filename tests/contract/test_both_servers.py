"""The server on PostgreSQL and the one in memory give the same answers to the same random calls."""

from collections import Counter

from support.comparing import Side, assert_same
from support.fuzzing import KNOWN_ACCOUNTS, KNOWN_PAYMENT, fuzz_cases, valid_requests
from support.in_memory import MemoryLedger
from support.random_calls import RandomCalls
from support.running import RunningLedger

CALLS = 300
FUZZ_CASES = 500


async def test_random_calls_get_the_same_answers(
    own_postgresql: RunningLedger, own_memory: MemoryLedger, seed: int
) -> None:
    """But for the ids and the instants that they make."""
    sides = Side(own_postgresql.channel), Side(own_memory.channel)
    seen: Counter[str] = Counter()
    for number, call in enumerate(RandomCalls(seed).calls(CALLS)):
        seen[await assert_same(*sides, number, call)] += 1
    assert seen["OK"] > CALLS / 2
    assert len(seen) > 4, "calls are refused for many reasons"


async def test_nonsense_gets_the_same_answers(
    own_postgresql: RunningLedger, own_memory: MemoryLedger, seed: int
) -> None:
    """Statuses, reasons, messages and violations of random bytes, and of fields that are changed at
    random.
    """
    sides = Side(own_postgresql.channel), Side(own_memory.channel)
    for ledger in (own_postgresql, own_memory):
        for account in KNOWN_ACCOUNTS:
            await ledger.accounts.CreateAccount(account)
        await ledger.payments.AuthorizePayment(KNOWN_PAYMENT)
    for case in fuzz_cases(seed, FUZZ_CASES, valid_requests()):
        # A call of one request and one response.
        if case.method == "StreamEvents":
            continue
        outcomes = [await side.call(case.method, case.requests[0]) for side in sides]
        sent = case.requests[0].hex()[:2000]
        assert outcomes[0] == outcomes[1], f"case {case.number}, {case.method} {sent}"
