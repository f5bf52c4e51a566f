"""From files on this machine to plans: read, measure where text is given, resolve.

The effects of `plan` and `compare`, in order; what a plan holds is `planning`'s, how it looks
`plan_rendering`'s. `local_text` is imported only where text is measured, since its libraries are an
extra of their own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from finetune_api.resource import LanguageFinetuneSpec
from finetune_cli.comparing import Candidate
from finetune_cli.errors import CliError
from finetune_cli.inputs.checking import check_manifest, invalid, resolve_spec, with_later_warnings
from finetune_cli.inputs.manifests import ResourceFile
from finetune_cli.inputs.model_files import LocalModel
from finetune_cli.planning import Plan, build_plan, gather_measurements, with_gpu_memory
from finetune_resolver import UnsupportedModelError
from finetune_text.survey.language_report import BREAKING, LanguageReport

if TYPE_CHECKING:
    from finetune_cli.inputs.local_text import MeasuredCorpus

INSTALL = "pip install 'language-finetune[text]'"
"""The extra of this package that holds what `finetune_text` stands on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What stands on the command line beside the resource."""

    data: Sequence[str] = ()
    validation: Sequence[str] = ()
    gpu_memory: str = ""
    tokens_per_second: float | None = None


def preview(manifest: ResourceFile, *, model: LocalModel, inputs: Inputs) -> Plan:
    """Return the plan of a resource with the text and the model that are here.

    Raises:
        CliError: the resource, an option or a file cannot be used.
    """
    written = check_manifest(manifest)
    spec = with_gpu_memory(written, inputs.gpu_memory)
    measured = measure(spec, model=model, inputs=inputs) if inputs.data else None
    profile = measured.profile if measured else None
    try:
        measurements = gather_measurements(spec, profile=profile, config=model.config)
    except UnsupportedModelError as error:
        raise invalid(manifest, [str(error)]) from error
    resolution = resolve_spec(manifest, spec=spec, measured=measurements)
    return build_plan(
        spec,
        resolution=with_later_warnings(resolution, spec=written),
        measured=measurements,
        profile=profile,
        reports=measured.reports if measured else (),
        tokens_per_second=inputs.tokens_per_second,
    )


def measure(spec: LanguageFinetuneSpec, *, model: LocalModel, inputs: Inputs) -> "MeasuredCorpus":
    """Return what the texts on the command line are with a model's tokenizer.

    Raises:
        CliError: a library is missing, or a file cannot be used.
    """
    try:
        from finetune_cli.inputs import local_text
    except ImportError as error:
        raise CliError(
            [f"--data needs {error.name}, which is not installed; run `{INSTALL}` and try again."]
        ) from error
    texts = local_text.find_texts(spec, data=inputs.data, validation=inputs.validation)
    return local_text.measure_texts(spec, texts=texts, model=model)


def find_refusals(plan: Plan) -> list[str]:
    """Return a line for everything because of which training would refuse the text."""
    return [line for report in plan.reports for line in _refusals_of(report)]


def _refusals_of(report: LanguageReport) -> Iterator[str]:
    places = [place for kind in BREAKING for place in report.places(kind)]
    yield from (f"{place.source} {place.what}" for place in places)
    count = sum(report.count(kind) for kind in BREAKING)
    if count > len(places):
        yield f"{count - len(places):,} more rows like these."
    tag = report.profile.tag
    if count:
        yield f"Training refuses the text of {tag} because of these rows; correct them."
    elif not report.profile.examples:
        files = ", ".join(report.files)
        yield (
            f"The text of {tag} in {files} has no example to learn from; expected rows with an answer or "
            "a text; add some."
        )


def compare_models(
    manifest: ResourceFile, *, models: Mapping[str, LocalModel], inputs: Inputs
) -> tuple[Candidate, ...]:
    """Return the plan with each model, by the path that named it.

    Raises:
        CliError: the resource cannot be planned with any of them.
    """
    candidates = []
    problems: list[str] = []
    for path, model in models.items():
        try:
            plan = preview(_renamed(manifest, model), model=model, inputs=inputs)
        except CliError as error:
            candidates.append(Candidate(model.name, path, problem=" ".join(error.lines)))
            problems += error.lines
            continue
        candidates.append(Candidate(model.name, path, plan))
    if all(each.plan is None for each in candidates):
        raise CliError(list(dict.fromkeys(problems)))
    return tuple(candidates)


def _renamed(manifest: ResourceFile, model: LocalModel) -> ResourceFile:
    """Return the manifest with this model's name: where config.json is absent the name tells a size."""
    spec = manifest.body.get("spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("model"), dict):
        return manifest
    named = spec["model"] | {"uri": f"pvc://models/{model.name}"}
    named.pop("revision", None)
    return replace(manifest, body=manifest.body | {"spec": spec | {"model": named}})
