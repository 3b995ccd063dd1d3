"""How an OpenAI-compatible endpoint is reached, be it a judge or a base."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator

from .section import Section

# The same as in data/judges/endpoint.py, which imports nothing from here.
ADDRESS = re.compile(
    r"https?://(?:(?![^:/]{254})\w[\w-]{0,62}(?:\.\w[\w-]{0,62})*|\[[0-9A-Fa-f:.]+\])"
    r"(?::0*(?P<port>[1-9]\d{0,4}))?(?:/(?:[\w.~!$'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)*",
    re.ASCII,
)


def _address(value: str) -> str:
    match = ADDRESS.fullmatch(value)
    if match is None or int(match["port"] or 1) > 65535:
        raise ValueError(
            "expected an address alone, such as http://localhost:8000/v1: no user, query, "
            "spaces or characters beyond ASCII"
        )
    return value


Address = Annotated[str, AfterValidator(_address)]


class EndpointKeys(Section):
    """How an endpoint is reached; keys left out are those of `Endpoint`."""

    key_env: str | None = None
    """The environment variable that holds the key; null sends none."""
    key_file: str | None = None
    """In its place, a file that holds the key and nothing else."""
    key_header: str | None = None
    """The header that carries the key, api-key for Azure; null is Authorization."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Further headers, sent with every request; no secrets."""
    query: dict[str, str] = Field(default_factory=dict)
    """What follows the address after a ?, such as Azure's api-version; no secrets."""
    timeout_s: float | None = Field(default=None, gt=0)
    """The longest that a try may take, to the answer's last byte; null is 120."""
    concurrency: int | None = Field(default=None, ge=1)
    """Requests under way at once; null is 8."""
    num_retries: int | None = Field(default=None, ge=0, le=100)
    """Tries after the first; null is 6."""
    backoff_s: float | None = Field(default=None, gt=0)
    """The wait before the second try, which doubles from try to try; null is 1."""

    @field_validator("key_env")
    @classmethod
    def _is_variable(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("expected the name of an environment variable, never the key")
        return value
