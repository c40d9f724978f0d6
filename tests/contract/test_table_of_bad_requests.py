"""The table of bad requests: each row has a test, or a reason why it has none."""

import ast
from pathlib import Path

import pytest
from contract.test_bad_requests import case_names

ROOT = Path(__file__).resolve().parents[2]
BAD = "tests/contract/test_bad_requests.py"
HOSTILE = "tests/contract/test_hostile_connections.py"
SERVER = "tests/api/test_server.py"

# The cases of BAD whose ids begin with the number of the row.
CASES = f"{BAD}::cases"
TENANTS = "none: there is one tenant; what an unknown id answers is row 61"
ELSEWHERE = "none here: authentication and TLS are tested with what offers them"

ROWS: dict[int, tuple[str, tuple[str, ...] | str]] = {
    1: ("empty request", (CASES,)),
    2: ("id empty", (CASES,)),
    3: ("id of blanks, or with them around it", (CASES,)),
    4: ("id too long", (CASES,)),
    5: ("id of 4 MiB", (CASES,)),
    6: ("NUL in a text", (CASES,)),
    7: ("control characters", (CASES,)),
    8: ("invisible characters", (CASES,)),
    9: ("accents, composed and not", (CASES,)),
    10: ("look-alike letters", (CASES,)),
    11: ("ids that differ in case", (f"{BAD}::test_ids_that_differ_in_case_are_two_events",)),
    12: ("SQL in a text", (CASES, f"{BAD}::test_reference_and_metadata_are_text_and_no_statement")),
    13: ("paths and templates", (CASES,)),
    14: ("invalid UTF-8", (CASES,)),
    15: ("half a surrogate pair", (CASES,)),
    16: ("bytes that are no message", (CASES,)),
    17: ("50 KB of unknown fields", (CASES,)),
    18: ("deeply nested groups", (CASES,)),
    19: ("restaurant id missing or bad", (CASES,)),
    20: ("event type unset", (CASES,)),
    21: ("event type 77", (CASES,)),
    22: ("event type at the ends of its type", (CASES,)),
    23: ("currency empty", (CASES,)),
    24: ("currency in lower case", (CASES,)),
    25: ("currency with blanks", (CASES,)),
    26: ("currency too short or too long", (CASES,)),
    27: ("currency in other letters", (CASES,)),
    28: ("currency that is none", (CASES,)),
    29: ("currencies without cents, and with three digits", (CASES,)),
    30: ("amount 0", (CASES,)),
    31: ("amount -1", (CASES,)),
    32: ("amount -2^63", (CASES,)),
    33: ("amount 2^63-1", (CASES,)),
    34: ("amount at its cap and beyond", (CASES,)),
    35: ("fee -1", (CASES,)),
    36: ("fee larger than the amount", (CASES,)),
    37: ("fee as large as the amount", (CASES,)),
    38: ("amount and fee that overflow together", (CASES,)),
    39: (
        "balance beyond int64",
        (
            f"{BAD}::test_balance_beyond_int64_is_told_and_ingest_stays_on",
            "tests/api/test_statement.py::test_balance_beyond_int64_is_out_of_range",
        ),
    ),
    40: ("fee where there is none", (CASES,)),
    41: ("payout id where there is none, and none where there is one", (CASES,)),
    42: (
        "payout event with another amount",
        (
            f"{BAD}::test_payout_event_that_contradicts_its_payout_is_refused",
            f"{BAD}::test_payout_event_names_a_payout_in_its_one_spelling",
        ),
    ),
    43: (
        "payout event with another currency or restaurant",
        (f"{BAD}::test_payout_event_that_contradicts_its_payout_is_refused",),
    ),
    44: ("payout paid twice", (f"{BAD}::test_payout_move_that_does_not_exist_is_refused",)),
    45: (
        "payout paid after it failed",
        (f"{BAD}::test_payout_move_that_does_not_exist_is_refused",),
    ),
    46: ("instant unset", (CASES,)),
    47: ("instant in the year 1", (CASES,)),
    48: ("instant at the end of 9999", (CASES,)),
    49: ("instant at the ends of int64", (CASES,)),
    50: ("nanoseconds out of range", (CASES,)),
    51: (
        "nanoseconds finer than a microsecond",
        (f"{BAD}::test_digits_finer_than_a_microsecond_do_not_count",),
    ),
    52: ("leap days", (CASES,)),
    53: ("instant in the future", (CASES,)),
    54: ("instant long ago", (CASES,)),
    55: ("event repeated", (f"{BAD}::test_metadata_is_not_compared_and_stays",)),
    56: (
        "event repeated with a field changed",
        (f"{BAD}::test_id_reused_with_another_field_names_the_field_and_nothing_stored",),
    ),
    57: (
        "event repeated with other metadata",
        (f"{BAD}::test_metadata_is_not_compared_and_stays",),
    ),
    58: ("event id of another tenant", TENANTS),
    59: ("batch empty, too long, too large", (CASES,)),
    60: (
        "batch of good and bad events",
        (f"{BAD}::test_batch_tells_each_event_its_own_fate_in_order",),
    ),
    61: (
        "unknown restaurant",
        (CASES, f"{BAD}::test_balance_of_a_known_restaurant_without_entries_is_zero"),
    ),
    62: ("currency of a query missing", (CASES,)),
    63: ("date or instant that is none", (CASES,)),
    64: ("date or instant in the future", (CASES,)),
    65: ("minimum below 0", (CASES,)),
    66: ("minimum 0", (f"{BAD}::test_odd_but_valid_run_is_planned_and_started",)),
    67: ("minimum 2^63-1", (f"{BAD}::test_odd_but_valid_run_is_planned_and_started",)),
    68: ("another run of the same date", (f"{BAD}::test_runs_of_one_date_differ_by_their_terms",)),
    69: (
        "a hundred runs at once",
        (
            f"{BAD}::test_hundred_runs_at_once_starve_nobody",
            "tests/e2e/test_payout_runs.py::test_hundred_run_payouts_at_once",
        ),
    ),
    70: ("payout id that is none", (CASES,)),
    71: ("payout id that is unknown", (CASES,)),
    72: ("page size out of range", (CASES, f"{BAD}::test_page_size_has_a_ceiling")),
    73: ("page token that is none", (CASES, f"{BAD}::test_damaged_page_token_is_refused")),
    74: ("filters that are none", (CASES,)),
    75: ("message of 5 MB", (CASES, f"{HOSTILE}::test_message_beyond_the_limit_is_refused")),
    76: ("5 MB of zeros in 5 KB", (f"{HOSTILE}::test_gzip_bomb_is_not_unpacked",)),
    77: (
        "100 MB of zeros",
        (
            f"{HOSTILE}::test_gzip_bomb_is_not_unpacked",
            f"{HOSTILE}::test_thirty_gzip_bombs_at_once_are_not_unpacked",
        ),
    ),
    78: ("unknown encoding", (f"{HOSTILE}::test_encoding_that_is_none_is_refused",)),
    79: ("20 KB of headers", (f"{HOSTILE}::test_headers_beyond_the_limit_are_refused_every_time",)),
    80: (
        "10,000 headers; a binary header that is none",
        (
            f"{HOSTILE}::test_ten_thousand_headers_are_refused",
            f"{HOSTILE}::test_binary_header_that_is_not_base64_is_refused",
        ),
    ),
    81: ("unknown method", (CASES, f"{HOSTILE}::test_unknown_method_is_unimplemented")),
    82: (
        "what is hardly gRPC",
        (
            f"{HOSTILE}::test_request_that_is_hardly_grpc_harms_nobody",
            f"{HOSTILE}::test_what_does_not_speak_http2_is_shown_out",
        ),
    ),
    83: (
        "timeouts that are none",
        (
            f"{HOSTILE}::test_timeout_that_is_over_is_told_so",
            f"{HOSTILE}::test_timeout_that_is_none_harms_nobody",
            f"{HOSTILE}::test_timeout_of_ten_thousand_years_is_taken",
        ),
    ),
    84: (
        "two messages, or none",
        (
            f"{HOSTILE}::test_second_message_of_a_single_call_is_not_booked",
            f"{HOSTILE}::test_call_without_a_whole_message_is_never_run",
        ),
    ),
    85: (
        "bodies that trickle; idle connections",
        (
            f"{HOSTILE}::test_body_that_trickles_in_holds_up_nobody",
            f"{HOSTILE}::test_six_hundred_idle_connections_hold_up_nobody",
            f"{HOSTILE}::test_idle_connection_is_shown_out",
        ),
    ),
    86: (
        "floods of pings, resets and other frames",
        (
            f"{HOSTILE}::test_ping_flood_is_cut_off",
            f"{HOSTILE}::test_streams_opened_and_reset_at_speed_are_survived",
            f"{HOSTILE}::test_flood_of_frames_is_survived",
        ),
    ),
    87: (
        "3,000 calls at once",
        (
            f"{SERVER}::test_thousands_of_calls_at_once_are_answered",
            f"{HOSTILE}::test_connection_is_told_how_many_streams_it_may_open",
        ),
    ),
    88: ("tokens that are none", ELSEWHERE),
    89: ("token without the right", ELSEWHERE),
    90: ("certificates that are none", ELSEWHERE),
    91: ("reflection that is off", (f"{SERVER}::test_reflection_can_be_turned_off",)),
    92: (
        "a method that raises",
        (f"{SERVER}::test_unexpected_exception_is_internal_and_tells_nothing",),
    ),
    93: (
        "fractions as amounts",
        ("tests/cli/test_event_lines.py::test_only_whole_numbers_are_money",),
    ),
}


NUMBERS = {int(name[:2]) for name in case_names()}


def test_every_row_is_there() -> None:
    """93 rows, none left out."""
    assert sorted(ROWS) == list(range(1, 94))


@pytest.mark.parametrize("row", ROWS)
def test_row_has_a_test_or_a_reason(row: int) -> None:
    """What stands for a row exists: a test of that name, or a case whose id begins with the number."""
    _, tests = ROWS[row]
    if isinstance(tests, str):
        assert tests.startswith("none")
        return
    assert tests
    for test in tests:
        file, name = test.split("::")
        if name == "cases":
            assert row in NUMBERS, f"no case of {file} begins with {row:02d}-"
        else:
            tree = ast.parse((ROOT / file).read_text())
            assert name in {
                node.name
                for node in tree.body
                if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef)
            }


def test_every_case_has_a_row() -> None:
    """No case claims to belong to a row that does not count it, but for those that another file has more of."""
    assert {number for number in NUMBERS if CASES not in ROWS[number][1]} <= {78, 80, 82, 83, 84}
