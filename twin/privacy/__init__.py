"""Privacy of a twin: upload policy, differential privacy, and the release of updates."""
