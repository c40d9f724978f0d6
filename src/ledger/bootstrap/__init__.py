"""Puts the parts together: settings, database, application and server."""
