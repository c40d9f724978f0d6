"""What many tests need: databases, running servers, events."""
