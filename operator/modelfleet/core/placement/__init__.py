"""Which flavor runs how many replicas, and why not another."""
