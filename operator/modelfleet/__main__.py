"""``python -m modelfleet <command>``, and nothing else."""

from __future__ import annotations

import sys

from modelfleet.cli import main

sys.exit(main())
