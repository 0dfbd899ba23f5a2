"""`python -m service.tasks`: every task with its parameters, as a Markdown table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from models.parameters import Parameters, properties
from service.tasks import TASKS


def main() -> None:
    """Prints the table."""
    print("| task | parameter | values | default | meaning |\n| --- | --- | --- | --- | --- |")
    for task in TASKS:
        for row in rows(task.params):
            print(f"| `{task.name}` {row}")


def rows(kind: type[Parameters]) -> Iterator[str]:
    """A row for each parameter: name, values, default, meaning."""
    for name, one in properties(kind).items():
        default = "" if one.get("default") is None else f"`{one['default']}`"
        yield f"| `{name}` | {values(one)} | {default} | {one['description']} |"


def values(schema: dict[str, Any]) -> str:
    """A parameter's type and bounds, or its choices."""
    for part in (schema, *schema.get("anyOf", ())):
        if "enum" in part:
            return ", ".join(f"`{choice}`" for choice in part["enum"])
        if part.get("type", "null") != "null":
            signs = (("minimum", ">= "), ("exclusiveMinimum", "> "), ("maximum", "<= "))
            bounds = [f"{sign}{part[key]:g}" for key, sign in signs if key in part]
            return ", ".join([part["type"], *bounds])
    return ""


if __name__ == "__main__":
    main()
