"""Whether W&B can be used from here: is there a key, and does the host answer soon?

Asked before `wandb.init`, which prompts, fails or waits where these answers are no.
"""

import os
import socket
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

PROBE_TIMEOUT_S = 3.0


def find_obstacle(base_url: str, settings_key: str | None) -> str | None:
    """The reason why W&B cannot be used online, in a few words; None if it can.

    Args:
        base_url: of the W&B server.
        settings_key: a key found in W&B's own settings, if any.
    """
    if not has_credentials(base_url, settings_key):
        return "no API key found: set WANDB_API_KEY or run `wandb login`"
    host, port = probe_address(base_url)
    if not is_reachable(host, port):
        return f"{host}:{port} does not answer"
    return None


def has_credentials(base_url: str, settings_key: str | None) -> bool:
    """Whether there is a key or an identity token: in the environment, W&B's settings or netrc."""
    if settings_key or os.environ.get("WANDB_API_KEY"):
        return True
    if os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    from wandb.errors import AuthenticationError
    from wandb.sdk.lib.wbauth import read_netrc_auth  # as init does: it knows the host's aliases

    try:
        return read_netrc_auth(host=base_url) is not None
    except AuthenticationError:  # there is one, malformed: init says so better than we could
        return True


def probe_address(base_url: str) -> tuple[str, int]:
    """Host and port to connect to: the server's, or those of the proxy on the way to it."""
    url = urlsplit(base_url)
    proxy = getproxies().get(url.scheme)
    if proxy and not proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)


def is_reachable(host: str, port: int, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Whether a TCP connection can be made in time.

    Tried in a thread, since looking up a name knows no time-out and may take much longer.
    """
    connected: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=timeout_s).close()
        except OSError:
            return
        connected.append(True)

    thread = Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return bool(connected)
