"""The page at `/`: one file that loads nothing and asks nobody but the server it came from.

Its policy names the page's own style and script by their hashes, so a browser runs no other.
"""

import base64
import hashlib
import re
from pathlib import Path

from starlette.responses import HTMLResponse

PAGE = Path(__file__).with_name("page.html")


def page_response() -> HTMLResponse:
    """The page, with the policy that a browser holds it to."""
    text = PAGE.read_text("utf-8")
    policy = {
        "default-src": "'none'",
        "style-src": _hashes(text, "style"),
        "script-src": _hashes(text, "script"),
        "connect-src": "'self'",
        "img-src": "data:",  # its icon
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",  # no text is ever read as HTML
        "trusted-types": "'none'",
    }
    headers = {
        "content-security-policy": "; ".join(" ".join(rule) for rule in policy.items()),
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    return HTMLResponse(text, headers=headers)


def _hashes(text: str, tag: str) -> str:
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    digests = (hashlib.sha256(inner.encode()).digest() for inner in found)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
