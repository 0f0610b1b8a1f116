"""The hospitals' world: images that arrive over time.

Holds pixels, knows no model and no federation.
"""
