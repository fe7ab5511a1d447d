"""A slow disk for a program or a test: `throttlefs.mounted`, and the pytest plugin."""
