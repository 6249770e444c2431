"""How a run is served: address, limits, and how many replicas of what; a file or flags set it."""

import dataclasses
import ipaddress
import os

from astroray.encoders import AttentionName
from astroray.errors import ConfigError
from astroray.web.guard import Limits

__all__ = ["EncoderReplicas", "Replicas", "ServeConfig", "WebReplicas"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replicas:
    """How many replicas of a kind there are, and what each takes of its machine."""

    min_replicas: int = 1
    """Replicas that are always there."""
    max_replicas: int = 1
    """Replicas under load."""
    target_ongoing_requests: float = 16.0
    """Requests of a replica that autoscaling aims at."""
    num_cpus: float
    """CPUs that Ray sets aside for a replica."""
    num_threads: int = 1
    """Threads that a replica computes with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebReplicas(Replicas):
    """Replicas that parse, search and answer; each holds the catalog and its embeddings."""

    num_cpus: float = 0.25


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderReplicas(Replicas):
    """Replicas that hold the model and encode uploads in batches."""

    num_cpus: float = 0.5
    max_queued: int = 64
    """Uploads of one web replica that may wait; more are told to come again."""
    max_batch: int = 16
    """Uploads encoded at once, at most."""
    batch_wait_ms: float = 2.0
    """How long a batch waits to become full."""
    num_gpus: float = 0.0
    """GPUs of a replica, fractions too; 0: it computes on the CPU."""

    def __post_init__(self) -> None:
        for name in ("max_queued", "max_batch", "num_threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"encoder.{name} is {getattr(self, name)}, expected at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Everything about `astroray serve`."""

    run_dir: str
    """A finished run, or a folder of versions, whose newest finished one is served.

    When a night has added one, or a link was moved to another run, that one is served from then on.
    """
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on."""
    tls_cert: str = ""
    """PEM file of the certificate, for HTTPS."""
    tls_key: str = ""
    """PEM file of its key."""
    allow_plain_http: bool = False
    """Other addresses than loopback want HTTPS, unless this says that a proxy in front has it."""
    flares: str = ""
    """Model file of `astroray train flares`, for /v1/flares/forecast; empty: no such route."""
    tokens: str = "~/.config/astroray/tokens.json"
    """File of hashed tokens; see `astroray token`."""
    audit: str = ""
    """File of the audit log; empty: logs/audit.jsonl of the run, of a run on S3 in a new
    temporary folder, which the replica's log names."""
    watch_s: float = 10.0
    """How often to look whether another run is there to be served."""
    limits: Limits = dataclasses.field(default_factory=Limits)
    web: WebReplicas = dataclasses.field(default_factory=WebReplicas)
    encoder: EncoderReplicas = dataclasses.field(default_factory=EncoderReplicas)
    attention: AttentionName = "auto"
    """How transformers compute attention; auto: as the run did, see `encoder.attention`."""

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ConfigError(f"port is {self.port}, expected 1..65535")
        if self.watch_s <= 0:
            raise ConfigError(f"watch_s is {self.watch_s}, expected more than 0")
        for name, part in (("web", self.web), ("encoder", self.encoder)):
            low, high = part.min_replicas, part.max_replicas
            if not 1 <= low <= high:
                raise ConfigError(f"{name} has {low}..{high} replicas, expected 1 <= min <= max")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigError("HTTPS needs both tls_cert and tls_key")
        for path in filter(None, (self.tls_cert, self.tls_key)):
            if not os.path.isfile(path):
                raise ConfigError(f"{path} is missing, expected a PEM file")
        if not (_is_loopback(self.host) or self.tls_cert or self.allow_plain_http):
            raise ConfigError(
                f"host is {self.host}: tokens would cross the network unencrypted; set tls_cert "
                "and tls_key, or allow_plain_http=true behind a proxy that speaks HTTPS"
            )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
