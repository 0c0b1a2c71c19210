"""What can go wrong with a request, before a dialect gives it its own shape."""

from __future__ import annotations

from mohist.errors import MohistError

__all__ = ["ApiError", "invalid", "overloaded", "unavailable"]


class ApiError(Exception):
    """An answer that is an error: HTTP status, message, and the machine-readable parts."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        """The field of the request that is wrong, where it is one."""
        self.code = code or type
        self.retry_after_s = retry_after_s
        """When to try again, where that helps."""

    @property
    def headers(self) -> dict[str, str]:
        """What the response says beside its body."""
        return {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}


def invalid(message: str | MohistError, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that is wrong as it stands."""
    return ApiError(400, str(message), param=param, code=code)


def unavailable(what: str, param: str | None = None) -> ApiError:
    """Something that this server or this model cannot do. Never ignored, since the answer would be wrong."""
    return ApiError(400, f"{what} is not available", param=param, code="not_available")


def overloaded(message: str, retry_after_s: int = 1) -> ApiError:
    """No place for the request now."""
    return ApiError(
        503, message, type="overloaded_error", code="server_overloaded", retry_after_s=retry_after_s
    )
