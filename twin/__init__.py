"""One software twin per hospital: mirrors its data stream, trains locally.

The only importer of both ``physical`` and ``incremental``.
"""
