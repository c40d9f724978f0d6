"""Texts of a processor that are kept with an event for people, bounded and clean."""

from collections.abc import Mapping

# Ten of them fit into the metadata of an event with room to spare, whatever their script.
TEXT_LENGTH_MAX = 200


def kept(texts: Mapping[str, str]) -> dict[str, str]:
    """The texts that are not empty, cut off, without NUL and without halves of characters."""
    return {
        name: text[:TEXT_LENGTH_MAX].replace("\0", "").encode("utf-8", "replace").decode()
        for name, text in texts.items()
        if text
    }
