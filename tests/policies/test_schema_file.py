"""The JSON Schema for editors is the one that the models give."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from outpass import files

ROOT = Path(__file__).resolve().parents[2]


def test_the_schema_has_not_drifted() -> None:
    spec = importlib.util.spec_from_file_location("gen_schema", ROOT / "tools" / "gen_schema.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (files.policies() / "policy.schema.json").read_text("utf-8") == module.text(), "run python tools/gen_schema.py"


def test_every_key_is_described_in_the_schema_and_in_the_reference() -> None:
    schema = json.loads((files.policies() / "policy.schema.json").read_text("utf-8"))
    reference = (files.policies() / "README.md").read_text("utf-8")
    for shape in (schema, *schema["$defs"].values()):
        assert shape["additionalProperties"] is False
        for key, value in shape["properties"].items():
            assert value.get("description"), key
            assert f"`{key}`" in reference, f"policies/README.md does not explain {key}"
