"""One mount's life: wiring, going to the background, logs, metrics, signals, draining."""
