"""What `scripts/bench` runs: ours beside the usual way, a module each."""
