"""Attacks that a curious server could run on what leaves a hospital and on the trained model.

``docs/privacy.md`` explains the figures.
"""
