"""The deployment: the same round between machines, over NVIDIA FLARE.

No learning in it, and nothing of it is imported by the core.
"""
