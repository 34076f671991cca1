"""vruntime: an OCI runtime that runs each container in its own microVM."""

__version__ = "0.1.0"
