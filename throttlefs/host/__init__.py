"""What is asked of the system: mounts, paths, the runtime directory, unmounting, fusectl."""
