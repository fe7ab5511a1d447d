"""Everything about the system: mounts, paths, the runtime directory, unmounting, fusectl."""
