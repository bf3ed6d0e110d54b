"""The API server: the only room that knows the Kubernetes client. What it reads becomes slim records; what it writes, a plan asked for."""
