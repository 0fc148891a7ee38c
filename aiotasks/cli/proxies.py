"""Which proxy leads to the API, as the environment says in the way that other programs know."""

from ipaddress import ip_address, ip_network
from urllib.request import getproxies_environment

from yarl import URL


def proxy_to(base_url: str) -> str | None:
    """Return the proxy of ``HTTPS_PROXY``, unless ``NO_PROXY`` excepts the host or it is plain http.

    Either name may be in lower case, which comes first then.
    """
    proxies = getproxies_environment()
    try:
        url = URL(base_url)
    except ValueError:
        # The client says what is wrong with it.
        return None
    if url.scheme != "https" or url.host is None or not proxies.get("https"):
        return None
    is_excepted = any(_is_in(url, name.strip()) for name in proxies.get("no", "").split(","))
    return None if is_excepted else proxies["https"]


def _is_in(url: URL, excepted: str) -> bool:
    """Return whether a URL is of a host, of one below it, or of an address in a network."""
    host = url.host or ""
    if excepted in {"*", host}:
        return True
    try:
        return ip_address(host) in ip_network(excepted, strict=False)
    except ValueError:
        name = excepted.removesuffix(f":{url.port}").removeprefix("*").removeprefix(".").lower()
        return bool(name) and f".{host}".endswith(f".{name}")
