"""The only cost model: price of a device, a flavor, a token."""
