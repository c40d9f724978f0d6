"""Damage to payloads of the quarantine and their moves."""

from support.damage.case import WARNING, Damage

MOVED = "payloads_are_where_their_moves_lead"
RELEASED = "released_payloads_name_stored_events"
SETTLED = "quarantined_payloads_are_settled"
ID = "00000000-0000-0000-0000-000000000001"
# As the damage names it, and as a check does.
PAYLOAD = f"payload {ID}"
COLUMNS = "quarantine_id, number, state, reason, detail, event_ids, retry_at, actor, recorded_at"


def stored(
    state: str, *moves: str, reason: str = "X", retry_at: str = "NULL", created_at: str = "now()"
) -> str:
    """SQL that stores a payload, and its moves to `moves`, one after the other."""
    rows = ", ".join(
        f"('{ID}'::uuid, {number}, '{move}',"
        f" '{'X' if move in ('QUARANTINED', 'PARKED') else ''}', '', '{{}}'::text[],"
        f" {'now()' if move in ('PARKED', 'RETRY_REQUESTED') else 'NULL::timestamptz'}, '',"
        f" {created_at})"
        for number, move in enumerate(moves, 1)
    )
    payload = (
        "INSERT INTO quarantined_payloads (quarantine_id, endpoint, processor, kind, body, headers,"
        " query, received_at, created_at, state, move_number, reason, detail, retry_at)"
        f" VALUES ('{ID}', 'shop_x', 'p', '', '', '{{}}', '', now(), {created_at}, '{state}',"
        f" {max(len(moves), 1)}, '{reason}', '', {retry_at})"
    )
    if not moves:
        return f"{payload};"
    # One statement: no payload is without the move that led to its state.
    return f"WITH p AS ({payload}) INSERT INTO quarantine_moves ({COLUMNS}) VALUES {rows};"


def moved(sql: str) -> Damage:
    return Damage(MOVED, sql, (PAYLOAD,))


DAMAGE_TO_QUARANTINE = (
    moved(stored("DISCARDED", "QUARANTINED")),
    moved(stored("QUARANTINED", "QUARANTINED", reason="Y")),
    moved(stored("PARKED", "PARKED", retry_at="now() + interval '1 second'")),
    moved(stored("RELEASED", "QUARANTINED", "RELEASED")),
    moved(stored("QUARANTINED", "DISCARDED", "QUARANTINED")),
    moved(stored("RETRY_REQUESTED", "RETRY_REQUESTED", retry_at="now()")),
    moved(
        stored("QUARANTINED", "QUARANTINED")
        + "UPDATE quarantine_moves SET number = 2;UPDATE quarantined_payloads SET move_number = 2"
        f" WHERE quarantine_id = '{ID}'"
        f";DELETE FROM quarantine_moves WHERE quarantine_id <> '{ID}'"
        f";DELETE FROM quarantined_payloads WHERE quarantine_id <> '{ID}'"
    ),
    moved(
        stored("QUARANTINED", "QUARANTINED")
        + "UPDATE quarantined_payloads SET created_at = created_at - interval '1 microsecond'"
        f" WHERE quarantine_id = '{ID}'"
    ),
    moved(
        stored("QUARANTINED", "QUARANTINED")
        + f"DELETE FROM quarantined_payloads WHERE quarantine_id = '{ID}'"
    ),
    moved(
        stored("QUARANTINED", "QUARANTINED")
        + f"DELETE FROM quarantine_moves WHERE quarantine_id = '{ID}'"
    ),
    Damage(
        RELEASED,
        stored("RELEASED", "PARKED", "RELEASED")
        + f"UPDATE quarantine_moves SET event_ids = ARRAY['evt_charge', 'evt_none']"
        f" WHERE quarantine_id = '{ID}' AND number = 2",
        (PAYLOAD,),
    ),
    Damage(
        SETTLED,
        stored("QUARANTINED", "QUARANTINED", created_at="now() - interval '4 days'"),
        ("endpoint shop_x",),
        WARNING,
    ),
)
