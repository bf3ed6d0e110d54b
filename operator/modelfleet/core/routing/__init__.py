"""Which model answers a request: policies compiled to a plan, the plan to Envoy's resources, and one decision per request."""
