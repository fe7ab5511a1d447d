"""The policy of a mount: what each image is held to, applied to the limiter, changed in flight."""
