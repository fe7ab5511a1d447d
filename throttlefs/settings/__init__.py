"""Reads what users write: limits, units, ``-o`` options, mount flags, the TOML file, its globs.

Text goes in, checked values come out. No module here opens a file or knows of a mount.
"""
