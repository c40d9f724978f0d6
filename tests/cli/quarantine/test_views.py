"""How the body of a payload is shown."""

import json

import pytest

from ledger.cli.quarantine.views import body_lines


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (b"", []),
        (b"{}", ["{}"]),
        (b"[ ]", ["[]"]),
        (b' {"a" :1}\n', ["{", '  "a": 1', "}"]),
        (
            b'{"a":[1,{"b":null}],"c":"x, {y}: \\"z\\""}',
            [
                "{",
                '  "a": [',
                "    1,",
                "    {",
                '      "b": null',
                "    }",
                "  ],",
                '  "c": "x, {y}: \\"z\\""',
                "}",
            ],
        ),
        # As they were sent: numbers that Python writes in another way, and a name that comes twice.
        (
            b'{"a":1.10,"a":9007199254740993000,"b":1E400}',
            ["{", '  "a": 1.10,', '  "a": 9007199254740993000,', '  "b": 1E400', "}"],
        ),
        (b"a=1&b=2\nc", ["a=1&b=2", "c"]),
        (b"{'a': 1}", ["{'a': 1}"]),
        (b"\xff{", ["\\xff{"]),
        # Python reads neither.
        (b"1" * 5000, ["1" * 5000]),
        (b"[" * 100_000, ["[" * 100_000]),
    ],
    ids=range(11),
)
def test_body_is_shown_as_it_was_sent(body: bytes, lines: list[str]) -> None:
    """JSON is indented; other texts keep their lines."""
    assert list(body_lines(body)) == lines


def test_indented_json_means_the_same() -> None:
    value = {"a": [1, -2.5, True, None, {"b": '\u20ac \n"{}[],:'}], "": {}, "c": [[], [[1]]]}
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=3)):
        assert json.loads("\n".join(body_lines(text.encode()))) == value
