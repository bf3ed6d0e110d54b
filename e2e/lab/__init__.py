"""A real Kubernetes on one Linux machine: real API server, scheduler, kubelets, containers, model and provider.

`Lab.current()` is the running lab: `.kubeconfig`, `.kubectl(...)`, `.images`, `.provider`, `.set_devices("h100", 0)`.
"""

from e2e.lab.lab import Lab
from e2e.lab.steps import LabError

__all__ = ["Lab", "LabError"]
