"""Addresses of HTTP servers."""


def http_url(host: str, port: int | None) -> str:
    """Return the address of a server on a host, which is a name or an address of either family."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
