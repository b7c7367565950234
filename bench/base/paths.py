"""Where things live on the user's machine."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """The cache root: `QUANTBENCH_CACHE`, else the platform's user cache folder. Made on first use."""
    override = os.environ.get("QUANTBENCH_CACHE")
    if override:
        return Path(override).expanduser().resolve()
    import platformdirs

    return Path(platformdirs.user_cache_dir("quantbench", appauthor=False))
