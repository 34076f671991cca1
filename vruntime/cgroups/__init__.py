"""The control group on the host that holds a container's monitor, QEMU, virtiofsd and shims, and its limits.

Commands that make, change or remove containers import what they need of it; `state`, `list` and `kill` nothing.
"""
