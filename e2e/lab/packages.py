"""The Debian packages the lab stands on: found, or installed when we may, or named in the error."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from e2e.lab.steps import LabError, sh, step
from e2e.lab.versions import DEBIAN_PACKAGES


def missing_packages() -> list[str]:
    """The packages whose proof (a command, or a file) is absent."""
    places = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [package for proof, package in DEBIAN_PACKAGES.items() if not (Path(proof).exists() if "/" in proof else shutil.which(proof, path=places))]


def ensure_packages() -> None:
    """Install what is missing. Raises LabError naming the packages when we are not root or there is no apt."""
    missing = missing_packages()
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise LabError(f"these Debian packages are missing: {' '.join(missing)}; install them (`apt-get install {' '.join(missing)}`) and run this again")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ("apt-get", "install", "--yes", "--no-install-recommends", *missing)
    with step(f"install Debian packages {' '.join(missing)}"):
        if sh(*install, env=env, check=False).returncode != 0:
            sh("apt-get", "update", env=env)
            sh(*install, env=env)
