"""Commands of the maintainers; no part of the product."""
