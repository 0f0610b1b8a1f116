"""Secure aggregation, the hospital's half: keys, masks, fixed-point numbers and messages."""
