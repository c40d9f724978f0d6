"""Faults on purpose, and the proof that no cent was lost or doubled by them: `make faults`."""
