"""Manifests against a CustomResourceDefinition: what Kubernetes would refuse, and what it would silently leave out.

An API server drops fields that the definition does not know, so a misspelt one is not an error there. Here it is.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from jsonschema import Draft202012Validator

KEPT_OPEN = ("x-kubernetes-preserve-unknown-fields", "additionalProperties")


def faults(documents: Iterable[Mapping[str, Any]], definition: Mapping[str, Any]) -> list[str]:
    """What is wrong with the documents of the definition's kind, each as `place: reason`; documents of others pass.

    Args:
        documents: Manifests.
        definition: A CustomResourceDefinition (apiextensions.k8s.io/v1).
    """
    spec = definition["spec"]
    schemas = {
        f"{spec['group']}/{version['name']}": version["schema"]["openAPIV3Schema"] for version in spec["versions"]
    }
    found: list[str] = []
    for document in documents:
        if document.get("kind") != spec["names"]["kind"]:
            continue
        schema = schemas.get(str(document.get("apiVersion")))
        if schema is None:
            found.append(f"apiVersion: {document.get('apiVersion')} is none of {', '.join(schemas)}")
            continue
        content = {name: value for name, value in document.items() if name not in ("apiVersion", "kind", "metadata")}
        errors = Draft202012Validator(closed(schema)).iter_errors(content)
        found += sorted(f"{error.json_path.removeprefix('$.')}: {error.message}" for error in errors)
    return found


def closed(schema: Any) -> Any:
    """The same schema, in which an object has no other fields than those that are named."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not any(name in schema for name in KEPT_OPEN):
        made["additionalProperties"] = False
    return made
