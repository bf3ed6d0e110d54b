"""The product measured on one machine: real API server, router, Envoy, operator and team runtime as processes; no lab, no GPU."""
