"""The example events of the package. scripts/make_demo_events.py makes them."""

import json
from pathlib import Path
from typing import Any

DEMO_FILE = Path(__file__).with_name("demo_events.jsonl")


def read_demo_lines() -> list[dict[str, Any]]:
    """The lines of the file: event_id, event_type, amount and fee in minor units, and so on."""
    return [json.loads(line) for line in DEMO_FILE.read_text(encoding="utf-8").splitlines()]
