"""Deliberate faults, and the proof that they lose or double no cent: `make faults`."""
