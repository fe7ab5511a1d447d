"""Who is held to what: the policy of a mount, applied to its limiter and changed in flight."""
