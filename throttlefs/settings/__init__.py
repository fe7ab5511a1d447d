"""What can be said: limits, units, ``-o`` options, mount flags, the TOML file and its globs.

Text goes in, checked values come out. Nothing here opens a file or knows a mount.
"""
