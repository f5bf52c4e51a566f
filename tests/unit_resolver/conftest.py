"""Short declarations into resources, so that a test shows only what it is about."""

from collections.abc import Callable
from typing import Any

import pytest

from finetune_api.resource import LanguageFinetuneSpec
from finetune_resolver import Resolution, resolve
from finetune_resolver.traits.measurement import LanguageMeasurement, Measurements

TRAITS = (
    "morphology",
    "tokenDensity",
    "corpus",
    "resourceLevel",
    "documents",
    "syntaxDistance",
    "codeSwitching",
)


def build_spec(**declared: Any) -> LanguageFinetuneSpec:
    """Return a resource of one language: traits, `tag`, `model`, `depth`, `gpuMemoryClass` and the rest of spec."""
    traits = {name: declared.pop(name) for name in TRAITS if name in declared}
    tag = declared.pop("tag", "und")
    languages = declared.pop("languages", [{"tag": tag, "traits": traits}])
    resources: dict[str, Any] = declared.pop("resources", {})
    model: dict[str, Any] = {"uri": declared.pop("model", "hf://org/model")}
    if "depth" in declared:
        model["depth"] = declared.pop("depth")
    if "gpuMemoryClass" in declared:
        resources["gpuMemoryClass"] = declared.pop("gpuMemoryClass")
    spec = {
        "model": model,
        "languages": [{"dataset": {"uri": "s3://corpora/text/"}} | item for item in languages],
        "resources": resources,
        "output": {"uri": "s3://adapters/", "formats": declared.pop("formats", ["Adapter"])},
        **declared,
    }
    return LanguageFinetuneSpec.model_validate(spec)


@pytest.fixture(scope="session")
def spec_of() -> Callable[..., LanguageFinetuneSpec]:
    """Build a resource from a short declaration."""
    return build_spec


@pytest.fixture(scope="session")
def resolve_of() -> Callable[..., Resolution]:
    """Resolve a short declaration; `measured` holds one language's measurement."""

    def resolve_declaration(
        *,
        measured: LanguageMeasurement | None = None,
        measurements: Measurements | None = None,
        **declared: Any,
    ) -> Resolution:
        given = Measurements(languages=(measured,)) if measured else measurements
        return resolve(build_spec(**declared), measured=given)

    return resolve_declaration


@pytest.fixture(scope="session")
def view_of() -> Callable[[Resolution, str], Any]:
    """Return a parameter's value; `trainer.lora_alpha` is the trainer's view of alpha."""

    def view(resolution: Resolution, parameter: str) -> Any:
        if parameter != "trainer.lora_alpha":
            return resolution.value(parameter)
        alpha = resolution.decision("lora_alpha")
        return alpha.superseded[0].value if alpha.superseded else alpha.value

    return view
