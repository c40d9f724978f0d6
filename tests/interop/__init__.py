"""Clients in other languages against a real server; `make interop` runs them."""
