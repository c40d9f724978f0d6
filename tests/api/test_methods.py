"""The table of methods is complete and agrees with the contract, the config and the docs."""

import json
import re
from importlib.resources import files
from pathlib import Path

from ledger.api.access.call_records import CONTENT_BY_METHOD
from ledger.api.methods import METHODS, SERVICE_NAMES, OpenCallsLimit, Recorded, Scope
from ledger.v1 import account_pb2, ledger_pb2, payment_pb2

ROOT = Path(__file__).parents[2]
SERVICES = [
    service
    for file in (ledger_pb2, account_pb2, payment_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
]
READS_OF_PERSONAL_DATA = {"GetQuarantined", "ListQuarantined"}
CONTRACT = {method.name: method for service in SERVICES for method in service.methods}


def test_methods_are_those_of_the_contract() -> None:
    assert set(METHODS) == set(CONTRACT), "change METHODS in src/ledger/api/methods.py"
    assert all(name == method.name for name, method in METHODS.items())
    assert [service.full_name for service in SERVICES] == list(SERVICE_NAMES)


def test_methods_know_their_service() -> None:
    """The path has it, as in HTTP/2. No two services have a method of the same name."""
    paths = {
        f"/{service.full_name}/{name}" for service in SERVICES for name in service.methods_by_name
    }
    assert len(CONTRACT) == len(paths)
    assert {method.path for method in METHODS.values()} == paths
    for method in METHODS.values():
        assert method.service_name == CONTRACT[method.name].containing_service.full_name


def test_exactly_the_methods_that_get_and_list_need_the_scope_read() -> None:
    """Except those whose responses may hold personal data."""
    for name, method in METHODS.items():
        assert method.is_read == name.startswith(("Get", "List")), name
        is_personal = name in READS_OF_PERSONAL_DATA
        assert (method.scope is Scope.READ) == (method.is_read and not is_personal), name


def test_exactly_the_methods_that_write_are_recorded() -> None:
    """Each has a rule for the content of its record. A preview needs a scope to send events, and
    writes nothing. Reads of personal data are recorded, too.
    """
    recorded = {name for name, method in METHODS.items() if method.recorded is not Recorded.NO}
    writing = {name for name, method in METHODS.items() if not method.is_read}
    assert recorded == writing - {"PreviewEvent"} | READS_OF_PERSONAL_DATA
    assert recorded == set(CONTENT_BY_METHOD), (
        "change CONTENT_BY_METHOD in src/ledger/api/access/call_records.py"
    )


def test_exactly_the_streams_have_the_limit_on_open_streams() -> None:
    """Nor do they have a timeout: a stream is open as long as its client has events."""
    for name, method in METHODS.items():
        is_stream = CONTRACT[name].server_streaming
        assert (method.open_calls_limit is OpenCallsLimit.STREAMS) == is_stream
        assert (method.timeout_seconds is None) == is_stream


def test_service_config_has_the_timeouts_of_the_table() -> None:
    """An entry for the method itself, or the one for all methods of its service.

    Every method may be repeated, so each but the stream has the same policy of retries.
    """
    config = json.loads((files("ledger.v1") / "service_config.json").read_text())
    entries = {
        (name["service"], name.get("method")): entry
        for entry in config["methodConfig"]
        for name in entry["name"]
    }
    for method in METHODS.values():
        seconds = method.timeout_seconds
        wanted = None if seconds is None else f"{seconds}s"
        service = method.service_name
        entry = entries.get((service, method.name), entries[service, None])
        assert entry.get("timeout") == wanted, method.name
        policy = None if seconds is None else entries[SERVICE_NAMES[0], None]["retryPolicy"]
        assert entry.get("retryPolicy") == policy, method.name
    assert {name for _, name in entries} - {None} <= set(METHODS)


def test_documented_scopes_are_those_of_the_table() -> None:
    """The table names each method, or all that begin alike: `Get…`, except some."""
    text = (ROOT / "docs" / "operations" / "security.md").read_text()
    table = text.partition("| scope | methods |\n")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `([a-z:]+)` \| (.+) \|$", table, re.MULTILINE))
    assert set(rows) == set(Scope)
    for scope in {method.scope for method in METHODS.values()}:
        row, _, excepted = rows[scope].partition("except")
        named = [re.escape(name).replace("…", ".+") for name in re.findall(r"`(\w+…?)`", row)]
        documented = {name for name in METHODS if re.fullmatch("|".join(named), name)}
        documented -= set(re.findall(r"`(\w+)`", excepted))
        assert documented == {name for name, method in METHODS.items() if method.scope is scope}, (
            f"change the row `{scope}` of the scopes in docs/operations/security.md"
        )
