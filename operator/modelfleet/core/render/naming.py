"""Names of children: a function of pool and flavor, so that a name says whose child it is and a crash never makes a second one."""

from __future__ import annotations

import hashlib

__all__ = ["child_name"]

MAX_LENGTH = 63


def child_name(pool: str, flavor: str) -> str:
    """``<pool>-<flavor>``; what a Service may not be called so (too long, a dot, a leading digit) is made fit and told apart by a hash."""
    plain = f"{pool}-{flavor}"
    fit = plain.replace(".", "-")
    if not fit[0].isalpha():
        fit = f"m-{fit}"
    if fit == plain and len(fit) <= MAX_LENGTH:
        return fit
    digest = hashlib.sha256(plain.encode()).hexdigest()[:8]
    return f"{fit[: MAX_LENGTH - 9].rstrip('-')}-{digest}"
