"""Aggregation: means, robust rules, screening of updates, and the server's half of secure sums."""
