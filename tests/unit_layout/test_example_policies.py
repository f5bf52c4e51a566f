"""The example policies name every Secret of a resource that the operator's own allow-list knows."""

from pathlib import Path

from finetune_operator.decide.plan.allowed_fields import RESTRICTED

POLICY = Path(__file__).resolve().parents[2] / "docs/examples/allow-secrets.yaml"


def test_the_policy_reads_every_secret_reference() -> None:
    text = POLICY.read_text("utf-8")
    secrets = next(field for field in RESTRICTED if field.setting == "allowed_secrets")
    for path in secrets.paths:
        named = path.removesuffix(".name")
        inside = named.partition("[].")[2]
        assert f"l.{inside}" in text if inside else f"object.{named}" in text
