"""What the page carries beside its text: the charting library and our own scripts, and a policy that runs only these.

BokehJS comes from the installed `bokeh` package, whole and unchanged, with its licence at its head. The page's
Content-Security-Policy names the digest of each script, so no other script runs, whatever text gets into the page.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"
OWN = ("tables.js", "charts.js", "page.js")


@dataclass(frozen=True, kw_only=True)
class Scripts:
    """Script texts in the order in which they run, and the policy that allows exactly these."""

    texts: tuple[str, ...]

    @property
    def policy(self) -> str:
        """The Content-Security-Policy of a page with these scripts: nothing is fetched, nothing is sent."""
        allowed = " ".join(f"'sha256-{digest(text)}'" for text in self.texts) or "'none'"
        return (
            f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:;"
            " base-uri 'none'; form-action 'none'"
        )


def digest(text: str) -> str:
    """SHA-256 of a script as a policy writes it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def scripts_for(*, charts: bool) -> Scripts:
    """Our own scripts, after BokehJS where there are charts."""
    own = "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in OWN)
    return Scripts(texts=(bokeh_js(), own) if charts else (own,))


@cache
def bokeh_js() -> str:
    """BokehJS, minified: the core without widgets, tables and WebGL. Safe inside a script element."""
    text = (files("bokeh") / "server" / "static" / "js" / "bokeh.min.js").read_text(encoding="utf-8")
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def embedded_json(value: Any) -> str:
    """JSON that may stand in a script element of type application/json, whatever its strings hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
