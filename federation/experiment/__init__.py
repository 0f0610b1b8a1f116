"""Experiments: configuration, setup, the loop over rounds, evaluation, records and checkpoints."""
