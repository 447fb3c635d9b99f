"""Takes an upload off the wire: its fields checked, its file on disk under a name of ours."""

import asyncio
import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from api.errors import Invalid
from api.routes.datasets.schemas import DatasetImport
from configs.dataset import DatasetSettings

COPY_BYTES = 2**20
JSON_FIELDS = {"columns": "field and column names", "chat_template_kwargs": "the template's arguments"}
"""Fields of the form that are objects, and of what."""


@dataclass(frozen=True)
class Upload:
    """A received file, or the name of a data set to fetch, with the settings that came along."""

    settings: DatasetSettings
    file_name: str | None
    body_hash: str
    """SHA-256 over file and fields: what makes a repeated request the same one."""


async def receive(request: Request, target: Path) -> Upload:
    """Return what was sent, multipart or JSON; a file's bytes are in `target` then.

    Raises `Invalid` or `RequestValidationError` with what is wrong; `target` may be left, for the caller to remove.
    """
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await receive_form(request, target)
    return await _receive_json(request)


async def _receive_json(request: Request) -> Upload:
    try:
        body = json.loads(await request.body() or b"null")
    except ValueError as error:
        raise RequestValidationError(
            [{"type": "json_invalid", "loc": ("body",), "msg": "", "input": {}, "ctx": {"error": str(error)}}]
        ) from error
    settings = _validated(DatasetImport.model_validate, body)
    canonical = json.dumps(body, sort_keys=True).encode()
    return Upload(settings, None, hashlib.sha256(canonical).hexdigest())


async def receive_form(request: Request, target: Path, fields_of: type[DatasetSettings] = DatasetSettings) -> Upload:
    """Return a file that was sent as a form, with the form's other fields as settings; see `receive`."""
    try:
        form = await request.form(max_files=1, max_fields=20)
    except HTTPException as error:
        raise Invalid(f"The form can't be read: {error.detail}") from error
    try:
        return await _read_form(form, target, fields_of)
    finally:
        await form.close()


async def _read_form(form: FormData, target: Path, fields_of: type[DatasetSettings]) -> Upload:
    fields: dict[str, Any] = {}
    file = None
    for name, value in form.multi_items():
        if name == "file" and isinstance(value, UploadFile):
            file = value
        elif isinstance(value, UploadFile):
            raise Invalid(f"{name} is a file; the file belongs in the form's field `file`.")
        else:
            fields[name] = _parsed(name, value)
    if file is None:
        raise Invalid("file is required: send the data set as the form's field `file`.")
    settings = _validated(partial(fields_of.model_validate_strings, strict=False), fields)
    digest = await asyncio.to_thread(_store, file.file, target)
    canonical = json.dumps([fields, digest], sort_keys=True).encode()
    return Upload(settings, file.filename or "file", hashlib.sha256(canonical).hexdigest())


def _parsed(name: str, value: str) -> Any:
    """Return a form field's value: text, but for those that are JSON."""
    if name not in JSON_FIELDS:
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise Invalid(f"{name} is {value[:80]!r}, but must be a JSON object of {JSON_FIELDS[name]}.") from error


def _validated(validate: Any, body: Any) -> Any:
    try:
        return validate(body)
    except ValidationError as error:
        problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors(include_url=False)]
        raise RequestValidationError(problems) from error


def _store(source: BinaryIO, target: Path) -> str:
    """Copy an upload to where it is read from, and return its SHA-256."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("wb") as file:
        while block := source.read(COPY_BYTES):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()
