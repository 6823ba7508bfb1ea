"""The Status errors of the Kubernetes API, with the messages of apimachinery's `api/errors`.

A resource or a kind is given with its group, such as `jobs.batch` or `Job.batch`.
"""

from __future__ import annotations

from dataclasses import dataclass

from .resources import Json


class ApiError(Exception):
    """A failed request; `status` is the body of the response."""

    def __init__(self, code: int, reason: str, message: str, details: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            **({"reason": reason} if reason else {}),
            **({} if details is None else {"details": details}),
            "code": code,
        }


@dataclass(frozen=True)
class Cause:
    """A field that failed validation, and why."""

    reason: str
    field: str
    message: str

    @classmethod
    def invalid(cls, field: str, value: str | int, why: str) -> Cause:
        shown = f'"{value}"' if isinstance(value, str) else value
        return cls("FieldValueInvalid", field, f"Invalid value: {shown}: {why}")

    @classmethod
    def required(cls, field: str, why: str = "") -> Cause:
        return cls("FieldValueRequired", field, f"Required value: {why}" if why else "Required value")

    @classmethod
    def unsupported(cls, field: str, value: str, supported: tuple[str, ...]) -> Cause:
        listed = ", ".join(f'"{one}"' for one in supported)
        return cls("FieldValueNotSupported", field, f'Unsupported value: "{value}": supported values: {listed}')


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def not_found(resource: str, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{resource} "{name}" not found', details(resource, name))


def already_exists(resource: str, name: str) -> ApiError:
    return ApiError(409, "AlreadyExists", f'{resource} "{name}" already exists', details(resource, name))


def conflict(resource: str, name: str, why: str) -> ApiError:
    message = f'Operation cannot be fulfilled on {resource} "{name}": {why}'
    return ApiError(409, "Conflict", message, details(resource, name))


def invalid(kind: str, name: str, causes: list[Cause]) -> ApiError:
    listed = list(dict.fromkeys(f"{cause.field}: {cause.message}" for cause in causes))
    text = listed[0] if len(listed) == 1 else f"[{', '.join(listed)}]"
    causing = {**details(kind, name), "causes": [vars(cause) for cause in causes]}
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {text}', causing)


def expired(message: str) -> ApiError:
    return ApiError(410, "Expired", message)


def details(qualified: str, name: str) -> Json:
    """Return the details of a Status: which object it is about."""
    kind, _, group = qualified.partition(".")
    return {**({"name": name} if name else {}), **({"group": group} if group else {}), "kind": kind}
