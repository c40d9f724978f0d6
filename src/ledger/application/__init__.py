"""Use cases, one a file, and the ports through which they reach the outside."""
