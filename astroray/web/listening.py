"""Where a server listens, and how browsers call that."""

import contextlib
import socket
from collections.abc import Iterator

from astroray.errors import ConfigError

__all__ = ["address_of", "listen"]


def address_of(host: str, port: int, *, scheme: str = "http") -> str:
    """The address of a server as browsers take it: IPv6 hosts stand in brackets."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


@contextlib.contextmanager
def listen(host: str, port: int) -> Iterator[tuple[socket.socket, str]]:
    """A socket that listens, and its address; port 0 takes a free one. Raises ConfigError.

    An IPv6 host may stand in brackets, as it does in an address.
    """
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen()  # so that who opens the address at once waits, and is not refused
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {address_of(host, port)}: {error.strerror}; choose another "
                "--host or --port"
            ) from None
        yield listening, address_of(host, listening.getsockname()[1])
