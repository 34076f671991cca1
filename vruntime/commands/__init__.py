"""One module a verb; each exposes its click command as ``command``."""
