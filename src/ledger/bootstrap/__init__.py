"""Assembles a server from settings, database and application."""
