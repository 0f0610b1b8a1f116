"""Deployment over NVIDIA FLARE: the same round between machines."""
