"""What an operator can set: defaults, then the TOML file, then `--section.field` on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mohist.errors import ConfigError
from mohist.serve.loading import ModelConfig
from mohist.serve.upstream import UpstreamConfig

__all__ = ["LimitsConfig", "MemoryConfig", "ServeConfig", "ServerConfig"]


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Where the server listens and how it ends."""

    name: str = ""
    """Whose changes by the admin API are whose: servers that share a database need a name each."""
    host: str = "127.0.0.1"
    """The address to bind. Any other than this machine's own asks every request for an API key."""
    port: int = 8000
    """0 picks a free one."""
    require_keys: bool | None = None
    """Ask for API keys also where only this machine can reach the server; none: only where others can."""
    stuck_s: float = 60.0
    """How long a step of an engine may take before the server says that it is not ready."""
    keep_alive_s: float = 10.0
    """Seconds of silence after which a stream says that it is alive."""
    drain_s: float = 600.0
    """On SIGTERM: how long running requests may take before they are cut off."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"server.port = {self.port}: it must be in 0..65535")
        for name in ("keep_alive_s", "drain_s", "stuck_s"):
            if not 0 < getattr(self, name) < 86400:
                raise ConfigError(f"server.{name} = {getattr(self, name)}: it must be in (0, 86400) seconds")


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """How much one request, and all together, may ask for. What is over a limit is refused, never cut."""

    max_requests: int = 256
    """Requests running or waiting at once; further ones get 503 and when to come back."""
    max_body_bytes: int = 8 << 20
    """Bytes of one request's body, except for PDF files."""
    max_pdf_bytes: int = 32 << 20
    """Bytes of a PDF file that the page sends to have its text read."""
    max_header_bytes: int = 64 << 10
    """Bytes of one request's headers."""
    max_messages: int = 4096
    """Messages of one conversation."""
    max_tools: int = 128
    """Tools of one request."""
    max_stop: int = 16
    """Stop strings of one request."""
    max_stop_chars: int = 1024
    """Characters of one stop string."""
    max_n: int = 16
    """Choices of one request."""
    max_prompts: int = 64
    """Prompts of one request for raw completions."""
    max_top_logprobs: int = 20
    """Alternatives reported with each token."""

    def __post_init__(self) -> None:
        for name in vars(self):
            if getattr(self, name) < 1:
                raise ConfigError(f"limits.{name} = {getattr(self, name)}: it must be at least 1")
        if self.max_top_logprobs > 64:
            raise ConfigError(f"limits.max_top_logprobs = {self.max_top_logprobs}: it may be at most 64")


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """When models make room."""

    models_gib: float | None = None
    """Weights and caches of loaded models together, in GiB; those unused for longest make room for others."""
    idle_s: float | None = None
    """Unload a model that nobody has used for this many seconds."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Everything about one server."""

    server: ServerConfig = field(default_factory=ServerConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    models: tuple[ModelConfig, ...] = ()
    """`[[models]]` in the file; those of the command line come first."""
    aliases: tuple[str, ...] = ()
    """Further names: ALIAS=MODEL. `default` stands for the first model unless it is given."""
    upstreams: tuple[UpstreamConfig, ...] = ()
    """`[[upstreams]]` in the file: models of other servers."""
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    data: Path | None = None
    """The folder for keys, usage and changes; none: mohist in the user's data folder (XDG)."""
    database: str = ""
    """postgresql://USER@HOST/NAME, in the place of mohist.db in the folder."""
