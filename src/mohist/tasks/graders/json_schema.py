"""JSON that fits a schema (https://json-schema.org)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mohist.tasks.extras import need
from mohist.tasks.grader import Grader, GraderConfig
from mohist.tasks.scoring import RIGHT, Verdict, wrong
from mohist.tasks.workers import OutOfLimits, WorkerLimits, Workers

__all__ = ["CONFIG", "JsonSchemaConfig", "handle", "start"]


@dataclass(frozen=True, kw_only=True)
class JsonSchemaConfig(GraderConfig):
    """Validates with the package jsonschema, in a process of its own: schemas hold patterns too."""

    name: str = "json_schema"
    cpu_s: int = 2
    """Processor time for one answer, in seconds; an answer that takes more is wrong."""

    places = ("code", "whole")

    def make(self) -> Grader:
        """See `GraderConfig`."""
        need("jsonschema", "tasks", "the grader json_schema")
        return JsonSchema(self)


class JsonSchema:
    """Expects a schema, which is an object; `$schema` says of which draft, the newest being understood."""

    def __init__(self, config: JsonSchemaConfig) -> None:
        self._workers = Workers(__name__, limits=WorkerLimits(cpu_s=config.cpu_s))

    def fault(self, expected: Any) -> str | None:
        """See `Grader`."""
        if not isinstance(expected, dict):
            return "a JSON schema, which is an object"
        try:
            note = self._workers.ask({"schema": expected})
        except OutOfLimits as error:
            return f"a JSON schema; checking this one takes {error}"
        return f"a JSON schema; this one fails: {note}" if note else None

    def judge(self, answer: str, expected: Any) -> Verdict:
        """See `Grader`."""
        try:
            note = self._workers.ask({"schema": expected, "text": answer})
        except OutOfLimits as error:
            return wrong(f"validating it takes {error}")
        return wrong(note) if note else RIGHT

    def close(self) -> None:
        """See `Grader`."""
        self._workers.close()


def start(_setup: Any) -> None:
    """See `mohist.tasks.worker.Service`."""
    import jsonschema
    import referencing

    jsonschema.Draft202012Validator({"type": "string"}, registry=referencing.Registry()).validate("")


def handle(_state: Any, request: Any) -> str:
    """See `mohist.tasks.worker.Service`: what is wrong with the schema or the text, if given; else empty.

    References go nowhere but to the schema itself and the official ones: nothing is fetched.
    """
    import jsonschema
    import referencing

    schema = request["schema"]
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        return f"{error.json_path}: {error.message}"[:300]
    if "text" not in request:
        return _foreign_reference(schema)
    try:
        value = json.loads(request["text"])
    except ValueError as error:
        return f"not JSON: {error}"
    found = next(iter(kind(schema, registry=referencing.Registry()).iter_errors(value)), None)
    return "" if found is None else f"{found.json_path}: {found.message}"[:300]


def _foreign_reference(schema: Any) -> str:
    """What is wrong with the first reference that leads nowhere within the schema; empty if none."""
    import referencing
    import referencing.exceptions
    import referencing.jsonschema

    whole = referencing.Resource.from_contents(
        schema, default_specification=referencing.jsonschema.DRAFT202012
    )
    resolver = referencing.Registry().with_resource("", whole).resolver()
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        children = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        waiting += children
        reference = part.get("$ref") if isinstance(part, dict) else None
        if isinstance(reference, str):
            try:
                resolver.lookup(reference)
            except referencing.exceptions.Unresolvable:
                return f"$ref {reference!r:.80} leads nowhere in the schema, and nothing is fetched"
    return ""


CONFIG = JsonSchemaConfig
