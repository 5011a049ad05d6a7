"""Writes policies/policy.schema.json, the JSON Schema that editors use, from the models that check policies.

Lives here: the generator. May not live here: any rule of its own. A test fails when the file and the models differ.
"""

from __future__ import annotations

import json
from pathlib import Path

from outpass.policy.shape import PolicyFile

FILE = Path(__file__).resolve().parent.parent / "policies" / "policy.schema.json"


def text() -> str:
    """The schema as it is committed."""
    schema = PolicyFile.model_json_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
