"""A model that grows by classes, and what it remembers: weights and numbers only."""
