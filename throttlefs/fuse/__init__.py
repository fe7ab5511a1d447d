"""The filesystem for the kernel: the channel, the session loop, inodes, the handlers."""
