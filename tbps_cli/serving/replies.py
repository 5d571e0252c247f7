"""JSON replies, and what is said of requests that cannot be answered: always `{"error": ..., "hint": ...}`."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from tbps_cli.errors import CacheError, MissingPackage, TbpsError, WeightsError
from tbps_cli.serving.batching import Ended
from tbps_cli.serving.security import problem
from tbps_cli.serving.served import NotReadyError
from tbps_cli.serving.service import ForbiddenError, NotThereError
from tbps_cli.serving.work_queue import Overloaded

JSON_HINT = "Send one with content-type: application/json. GET /openapi.json has an example of each request."


class AnyNameResponse(JSONResponse):
    """JSON in ASCII alone: file names that are no UTF-8 have marks that cannot be encoded otherwise."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def add_errors(api: FastAPI) -> None:
    """Have an application answer mistakes with their line and hint."""

    @api.exception_handler(TbpsError)
    async def mistake(_: Request, error: TbpsError) -> Response:
        message = error.message.removeprefix("--")  # whoever asks has no command line
        hint = error.hint and error.hint.replace("unless you add --plain-query", 'unless "plain" is true')
        return AnyNameResponse(problem(message, hint), _status(error), _again(error))

    @api.exception_handler(ModuleNotFoundError)
    async def lacking(_: Request, error: ModuleNotFoundError) -> Response:
        """As of a clip, where tbps-lite is installed without what reads videos."""
        module = (error.name or "").partition(".")[0]
        if module in ("", "tbps_cli"):
            raise error
        package = MissingPackage(module)
        return AnyNameResponse(problem(package.message, package.hint), 501)

    @api.exception_handler(Overloaded)
    async def overloaded(_: Request, error: Overloaded) -> Response:
        headers = {"retry-after": str(error.retry_after)}
        return AnyNameResponse(problem("the server is busy.", "Try again in a moment."), 503, headers)

    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return AnyNameResponse(_said(error.errors()[-1]), 422)  # of a part that is nothing right, what an object lacks

    @api.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        path, hint = f"{request.url.path:.200}", None
        said = str(error.detail)
        if error.status_code == 404:
            said = f"{path}: there is nothing here."
        elif error.status_code == 405:
            said, hint = f"{path} is not asked with {request.method:.20}.", "GET /openapi.json has what can be asked."
        elif error.status_code == 400:
            said, hint = "the body is no JSON.", JSON_HINT
        return AnyNameResponse(problem(said, hint), error.status_code, jsonable_encoder(error.headers))


def _said(found: dict[str, Any]) -> dict[str, Any]:
    """What is said of a request that pydantic has refused."""
    kind, message = str(found["type"]), str(found["msg"]).removeprefix("Value error, ")
    place = ".".join(str(part) for part in found["loc"] if isinstance(part, int) or str(part).islower())
    for beginning in ("body.", "body", "query.", "path."):
        place = place.removeprefix(beginning)
    if kind == "json_invalid":
        return problem(f"the body is no JSON: {found['ctx']['error']} (character {place}).", JSON_HINT)
    if not place and kind != "value_error":
        return problem("the body is no JSON object.", JSON_HINT)
    if kind == "extra_forbidden":
        return problem(f"{place}: there is no such key.", "GET /openapi.json has all of them.")
    if kind == "string_pattern_mismatch":
        return problem(f"{place}: it has characters that cannot be in it.")
    return problem(f"{place}: {message}." if place else f"{message}.")


def _status(error: TbpsError) -> int:
    """The HTTP status of a mistake."""
    if isinstance(error, NotThereError):
        return 404
    if isinstance(error, NotReadyError | Ended):
        return 503
    if isinstance(error, ForbiddenError):
        return 403
    return 500 if isinstance(error, CacheError | WeightsError) else 422


def _again(error: TbpsError) -> dict[str, str]:
    return {"retry-after": "2"} if isinstance(error, NotReadyError | Ended) else {}
