"""The only floor that knows there are several hospitals. Start reading at ``federation.round``."""
