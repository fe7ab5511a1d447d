"""The control socket of a mount: QEMU's Machine Protocol, its server and its client."""
