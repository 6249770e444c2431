"""How the OpenAPI document becomes a page that a person reads, without scripts or other hosts."""

from collections.abc import Mapping
from typing import Any

from astroray.templates import load_template

__all__ = ["render_reference"]


def render_reference(document: Mapping[str, Any]) -> str:
    """One HTML page: every endpoint with its parameters, answers and a line for curl."""
    endpoints = [
        _endpoint(document, path, method, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    template = load_template("astroray.web", "reference.html.jinja")
    return template.render(info=document["info"], endpoints=endpoints)


def _endpoint(
    document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]
) -> dict[str, Any]:
    is_upload = "requestBody" in operation
    is_open = not operation.get("security")
    words = ["curl"]
    words += [] if is_open else ['-H "Authorization: Bearer $TOKEN"']
    words += ["--data-binary @FILE.fits -H 'Content-Type: application/fits'"] if is_upload else []
    example = path.replace("{object_id}", "ID")
    required = [p["name"] for p in operation.get("parameters", []) if p["required"]]
    query = "&".join(f"{name}=..." for name in required if f"{{{name}}}" not in path)
    words.append(f'"$URL{example}{"?" if query else ""}{query}"')
    return {
        "id": f"{method}{path}",
        "method": method.upper(),
        "path": path,
        "text": operation.get("description", operation.get("summary", "")),
        "curl": " ".join(words),
        "is_open": is_open,
        "is_upload": is_upload,
        "body": operation.get("requestBody", {}).get("description", ""),
        "parameters": [_parameter(one) for one in operation.get("parameters", [])],
        "answers": [
            {"status": status, "text": answer["description"], "fields": _fields(document, answer)}
            for status, answer in operation["responses"].items()
        ],
    }


def _parameter(parameter: Mapping[str, Any]) -> dict[str, Any]:
    shape = parameter.get("schema", {})
    limits = [
        f"{sign} {shape[key]}"
        for key, sign in (("minimum", "at least"), ("maximum", "at most"))
        if key in shape
    ]
    return {
        "name": parameter["name"],
        "kind": _kind(shape),
        "required": parameter["required"],
        "default": shape.get("default"),
        "limits": ", ".join(limits),
        "text": parameter.get("description", shape.get("description", "")),
    }


def _kind(shape: Mapping[str, Any]) -> str:
    if "$ref" in shape:
        return str(shape["$ref"]).rpartition("/")[2]
    options = [one for one in shape.get("anyOf", []) if one.get("type") != "null"]
    if options:
        return _kind(options[0])
    if shape.get("type") == "array":
        return f"list of {_kind(shape.get('items', {}))}"
    return str(shape.get("type", "any"))


def _fields(document: Mapping[str, Any], answer: Mapping[str, Any]) -> list[dict[str, str]]:
    """Fields of a JSON answer, one level deep; empty for errors and other kinds of answers."""
    shape = answer.get("content", {}).get("application/json", {}).get("schema", {})
    if not str(shape.get("$ref", "")).startswith("#/components/schemas/"):
        return []
    name = shape["$ref"].rpartition("/")[2]
    if name == "Problem":
        return []
    properties = document["components"]["schemas"][name].get("properties", {})
    return [
        {"name": key, "kind": _kind(value), "text": value.get("description", "")}
        for key, value in properties.items()
    ]
