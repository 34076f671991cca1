"""The virtual machine: its command line, its console, and the control of QEMU."""
