"""The filesystem as the kernel sees it: pyfuse3, the session loop, inodes, the handlers."""
