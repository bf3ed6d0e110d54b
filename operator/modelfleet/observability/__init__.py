"""Names of metrics, log fields and headers: one file each, so that they are unique and documented."""
