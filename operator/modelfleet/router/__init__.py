"""The process `router`: one per gateway pod, beside a stock Envoy."""
