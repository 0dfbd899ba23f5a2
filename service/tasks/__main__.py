"""`python -m service.tasks`: every task with its parameters, as a Markdown table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from models.parameters import SEPARATOR, Parameters, groups
from service.tasks import TASKS


def main() -> None:
    """Prints the table."""
    print("| task | parameter | values | default | meaning |\n| --- | --- | --- | --- | --- |")
    for task in TASKS:
        for line in rows(task.params):
            print(f"| `{task.name}` | {line} |")


def rows(params: type[Parameters], prefix: str = "") -> Iterator[str]:
    """The cells of each parameter."""
    schema, inner = params.model_json_schema(), groups(params)
    for name, field in params.model_fields.items():
        if name in inner:
            yield from rows(inner[name], f"{prefix}{name}{SEPARATOR}")
            continue
        one = schema["properties"][name]
        default = "" if one.get("default") is None else f"`{one['default']}`"
        shown = values(one, schema.get("$defs", {}))
        yield f"`{prefix}{name}` | {shown} | {default} | {field.description}"


def values(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A parameter's type and bounds, or its choices."""
    for part in (schema, *schema.get("anyOf", ())):
        if "$ref" in part:
            part = definitions[part["$ref"].rpartition("/")[2]]
        if "enum" in part:
            return ", ".join(f"`{choice}`" for choice in part["enum"])
        if part.get("type", "null") != "null":
            signs = (("minimum", ">= "), ("exclusiveMinimum", "> "), ("maximum", "<= "))
            bounds = [f"{sign}{part[key]:g}" for key, sign in signs if key in part]
            return ", ".join([part["type"], *bounds])
    return ""


if __name__ == "__main__":
    main()
