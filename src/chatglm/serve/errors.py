"""Errors as clients of the OpenAI format expect them: a status, and message, type, code and param in the body."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from chatglm.errors import ChatGLMError, PromptError, RequestError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
_SEEN = 200  # characters of a client's value that are repeated to it


class ApiError(ChatGLMError):
    """A refusal or a failure, as it is answered.

    Attributes:
        status: of HTTP.
        message: what was wrong, the value seen, what would be right.
        code: a word that programs can compare, such as "context_length_exceeded".
        param: the field of the request that was wrong.
        retry_after: seconds after which asking again may help.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after = retry_after

    @property
    def type(self) -> str:
        return _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    def body(self) -> dict[str, Any]:
        """The JSON body, which is also the data of an error event in a stream."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_after is None else {"Retry-After": str(max(1, round(self.retry_after)))}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def unsupported(field: str, why: str) -> ApiError:
    """A field of the format that this server does not carry out."""
    return ApiError(400, f"{field} is not supported: {why}", code="unsupported_parameter", param=field)


def wrong(field: str, message: str) -> ApiError:
    """Fields that do not fit together; `field` is the one to change."""
    return ApiError(400, message, code="invalid_value", param=field)


def from_validation(error: ValidationError, body: Any) -> ApiError:
    """What pydantic found in a body, told about its first fault."""
    first = error.errors(include_url=False, include_context=False)[0]
    param = _path(first["loc"], body)
    where = param or "the body"
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"{where} is not a field of this request", code="unknown_parameter", param=param)
    if first["type"] == "missing":
        return ApiError(400, f"{where} is missing", code="missing_required_parameter", param=param)
    seen = repr(first["input"])
    seen = seen if len(seen) <= _SEEN else seen[:_SEEN] + "..."
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{where}: {message} (it is {seen})", code="invalid_value", param=param)


def from_ours(error: ChatGLMError) -> ApiError:
    """What a room below has refused. A client's fault is 400; the rest is ours."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, (PromptError, RequestError)):
        return ApiError(400, str(error), code="invalid_value")
    return ApiError(500, str(error), code="internal_error")


def _path(location: tuple[int | str, ...], body: Any) -> str | None:
    """`messages[0].content` of ("messages", 0, "content", "str"): what is no place in the body names a type."""
    path, here = "", body
    for place, part in enumerate(location):
        last = place == len(location) - 1
        if isinstance(part, int):
            path, here = f"{path}[{part}]", here[part] if isinstance(here, list) and part < len(here) else None
        elif isinstance(here, dict) and (part in here or last):
            path, here = f"{path}.{part}" if path else part, here.get(part)
    return path or None
