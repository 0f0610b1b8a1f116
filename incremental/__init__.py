"""A model that grows and what it remembers.

Weights and numbers only: knows no hospital and no round.
"""
