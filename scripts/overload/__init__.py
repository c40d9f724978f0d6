"""Offers a server ten times what it can take: `python -m scripts.overload`."""
