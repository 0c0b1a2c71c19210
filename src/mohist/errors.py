"""Every mistake that a user can make ends in one of these.

MohistError
├── ConfigError      a config key or command-line value
├── WeightsError     a weight file or folder: truncated, corrupt, hostile, or not what it should be
├── SourceError      weights that could not be fetched or found
├── ModelError       an architecture, field or tensor that no family covers
├── ChatError        messages, templates or tokenizers
├── RequestError     a request that the engine cannot accept
├── DataError        a data file and its lines
├── RunError         a run's folder that cannot be used, or training that cannot go on
└── TaskError        a task's problems or its grader
"""

from __future__ import annotations

__all__ = [
    "ChatError",
    "ConfigError",
    "DataError",
    "ModelError",
    "MohistError",
    "RequestError",
    "RunError",
    "SourceError",
    "TaskError",
    "WeightsError",
]


class MohistError(Exception):
    """A mistake that its reader can mend: the message names the key, the value and the fix."""


class ConfigError(MohistError):
    """A config key or command-line value is unknown or out of range."""


class WeightsError(MohistError):
    """A weight file is truncated, corrupt, hostile, or of an unsupported kind."""


class SourceError(MohistError):
    """A model source could not be found or fetched."""


class ModelError(MohistError):
    """A model's config or tensors do not fit any family."""


class ChatError(MohistError):
    """Messages, a chat template or a tokenizer cannot be used."""


class RequestError(MohistError):
    """A generation request has a parameter or prompt that cannot be served."""


class DataError(MohistError):
    """A data file cannot be read, or lines of it do not hold what they should."""


class RunError(MohistError):
    """A run's folder cannot be used, or its training cannot go on."""


class TaskError(MohistError):
    """A task's problems cannot be used, or its grader could not judge an answer."""
