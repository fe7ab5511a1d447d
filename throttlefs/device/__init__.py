"""What the disk behind pretends to be: how it fails. Pure but for what waits."""
