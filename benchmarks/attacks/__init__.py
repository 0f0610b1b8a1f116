"""Privacy attacks of a curious server on uploads and models; see ``docs/privacy.md``."""
