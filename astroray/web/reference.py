"""How the OpenAPI document becomes a page that a person reads, without scripts or other hosts."""

from collections.abc import Mapping
from typing import Any

from astroray.templates import load_template

__all__ = ["render_reference"]


def render_reference(document: Mapping[str, Any], login_path: str) -> str:
    """One HTML page: every endpoint with its parameters, answers and a line for curl.

    login_path  where people log in for pages; empty where there are none
    """
    endpoints = [
        _endpoint(document, path, method, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    template = load_template("astroray.web", "reference.html.jinja")
    return template.render(info=document["info"], endpoints=endpoints, login_path=login_path)


def _endpoint(
    document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]
) -> dict[str, Any]:
    is_upload = "requestBody" in operation
    is_open = not operation.get("security")
    words = ["curl"]
    words += [] if is_open else ['-H "Authorization: Bearer $TOKEN"']
    words += ["--data-binary @FILE.fits -H 'Content-Type: application/fits'"] if is_upload else []
    example = path.replace("{object_id}", "ID")
    query = "&".join(
        f"{one['name']}={one['schema'].get('examples', ['...'])[0]}"
        for one in operation.get("parameters", [])
        if one["in"] == "query" and (one["required"] or "examples" in one["schema"])
    )
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
    """Fields of a JSON answer; empty for errors and other kinds of answers."""
    shape = answer.get("content", {}).get("application/json", {}).get("schema", {})
    return [] if _kind(shape) == "Problem" else _inside(document, shape, "")


def _inside(
    document: Mapping[str, Any], shape: Mapping[str, Any], before: str
) -> list[dict[str, str]]:
    """Fields of an object, and those of objects and lists in it; `before` begins their names."""
    name = str(shape.get("$ref", "")).rpartition("/")[2]
    properties = document["components"]["schemas"].get(name, {}).get("properties", {})
    fields = []
    for key, value in properties.items():
        text, full = value.get("description", ""), f"{before}{key}"
        fields.append({"name": full, "kind": _kind(value), "text": text})
        fields += _inside(document, value, f"{full}.")
        fields += _inside(document, value.get("items", {}), f"{full}[].")
    return fields
