"""From the profile that a Measure pod left to what the resolver decides from and what status shows.

Between `finetune_api.profile`, which crosses the process border, and `measurement`, whose values
decide. Operator and CLI both come here, so that a profile means the same to both. Pure; a number that
was not measured stays unset.
"""

from collections.abc import Iterator

from finetune_api.profile import CANDIDATE_LENGTHS, LanguageProfile, Profile, TokenizerProfile
from finetune_api.resource import Language, LanguageFinetuneSpec, Method
from finetune_api.status import CorpusStatus, TokenLengths
from finetune_resolver.errors import UnsupportedModelError
from finetune_resolver.memory.model_shape import ModelShape, shape_from_config
from finetune_resolver.traits.catalogue import find
from finetune_resolver.traits.measurement import LanguageMeasurement, Measurements
from finetune_resolver.traits.token_premium import estimate_token_premium

LAYERS = "num_hidden_layers"
MANY_NEAR = 0.1
"""Share of near duplicates from which what "nearly" means is reported: a template, more likely than
copies (assumption)."""


def build_measurements(spec: LanguageFinetuneSpec, profile: Profile) -> Measurements:
    """Return what the profile says of the resource's text and model.

    Args:
        spec: the spec of the resource.
        profile: what the Measure Job or the CLI counted.

    Raises:
        UnsupportedModelError: memory has to be decided, and the model is built otherwise than we know.
    """
    return Measurements(
        languages=tuple(
            _measurement(language, measured=measured)
            for language, measured in zip(spec.languages, profile.languages, strict=False)
        ),
        tokenizer_family=profile.tokenizer.family,
        english_bytes_per_token=profile.tokenizer.english_bytes_per_token,
        shape=_shape(spec, profile),
        hidden_layers=_layers(profile),
    )


def corpus_statuses(profile: Profile, *, max_seq_length: int | None) -> list[CorpusStatus]:
    """Return what status shows of each language's text, cut at the resolved length where it is known.

    Args:
        profile: what the Measure Job or the CLI counted.
        max_seq_length: tokens at which a sequence is cut; None where it is not resolved.
    """
    return [
        _corpus(one, tokenizer=profile.tokenizer, max_seq_length=max_seq_length)
        for one in profile.languages
    ]


def _measurement(language: Language, *, measured: LanguageProfile) -> LanguageMeasurement:
    validation = language.dataset.validation
    # A file of its own is no part of the text; a fraction is taken out of it.
    has_own_file = validation is not None and validation.uri is not None
    held_out = 0 if has_own_file else measured.validation_examples
    return LanguageMeasurement(
        examples=measured.examples + held_out + (measured.unmeasured or 0),
        held_out=held_out,
        tokens=_extrapolate(measured.tokens, measured),
        supervised_tokens=_extrapolate(measured.supervised_tokens, measured),
        unique_tokens=_extrapolate(measured.unique_tokens, measured),
        chars_per_token=measured.characters_per_token,
        bytes_per_token=measured.bytes_per_token,
        words=measured.words,
        mattr500=measured.mattr500,
        code_mixing_index=measured.code_mixing_index,
        script_share=measured.script_share,
        p95_tokens=measured.p95,
        p99_tokens=measured.p99,
        max_tokens=measured.longest,
        truncated_shares=tuple(_truncated_shares(measured)),
    )


def _extrapolate(tokens: int, measured: LanguageProfile) -> int:
    """Return tokens of the measured rows with those of the rest, which are taken to be like them."""
    if not measured.unmeasured or not measured.examples:
        return tokens
    return tokens + tokens * measured.unmeasured // measured.examples


def _truncated_shares(measured: LanguageProfile) -> Iterator[tuple[int, float]]:
    for length in CANDIDATE_LENGTHS if measured.examples else ():
        longer = measured.longer_than(length)
        if longer is not None:
            yield length, longer / measured.examples


def _shape(spec: LanguageFinetuneSpec, profile: Profile) -> ModelShape | None:
    if not profile.model:
        return None
    try:
        return shape_from_config(profile.model)
    except UnsupportedModelError:
        # Where nothing is asked of the memory model, an unknown shape decides nothing.
        if _needs_shape(spec):
            raise
        return None


def _needs_shape(spec: LanguageFinetuneSpec) -> bool:
    resources = spec.resources
    is_declared = resources.gpu_memory_class is not None and spec.method is not Method.AUTO
    return resources.gpu_memory is not None and not is_declared


def _layers(profile: Profile) -> int | None:
    inner = profile.model.get("text_config")
    for holder in (inner, profile.model):
        layers = holder.get(LAYERS) if isinstance(holder, dict) else None
        if isinstance(layers, int) and not isinstance(layers, bool) and layers > 0:
            return layers
    return None


# --- What status shows ------------------------------------------------------------------------------


def _corpus(
    measured: LanguageProfile, *, tokenizer: TokenizerProfile, max_seq_length: int | None
) -> CorpusStatus:
    token_premium = estimate_token_premium(
        find(measured.tag),
        family=tokenizer.family,
        bytes_per_token=measured.bytes_per_token,
        english_bytes_per_token=tokenizer.english_bytes_per_token,
    )
    cut = None if max_seq_length is None else measured.longer_than(max_seq_length)
    return CorpusStatus(
        tag=measured.tag,
        examples=measured.examples,
        validation_examples=measured.validation_examples,
        tokens=measured.tokens,
        supervised_tokens=measured.supervised_tokens,
        unique_tokens=measured.unique_tokens,
        chars_per_token=_text(measured.characters_per_token),
        bytes_per_token=_text(measured.bytes_per_token),
        token_premium=_text(token_premium),
        token_lengths=TokenLengths(
            p50=measured.p50, p95=measured.p95, p99=measured.p99, max=measured.longest
        ),
        truncated_percent=_percent(cut, measured.examples),
        duplicates=measured.duplicates + measured.near_duplicates,
        script_share=_text(measured.script_share),
        code_mixing_index=_text(measured.code_mixing_index),
        type_token_ratio=_text(measured.mattr500),
        warnings=list(_warnings(measured)),
    )


def _text(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def _percent(part: int | None, whole: int) -> str | None:
    return None if part is None or not whole else f"{100 * part / whole:.2f}"


def _warnings(measured: LanguageProfile) -> Iterator[str]:
    yield from measured.notes or ()
    if measured.unmeasured:
        yield (
            f"The first {_examples(measured.examples)} {_were(measured.examples)} measured;"
            f" {measured.unmeasured:,} more {_were(measured.unmeasured)} counted and"
            f" {_are(measured.unmeasured)} taken to be like them."
        )
    if measured.duplicates or measured.near_duplicates:
        yield _repeats(measured)
    if measured.uncompared:
        yield (
            f"For {_examples(measured.uncompared)} no near duplicate was sought, because there are so"
            " many; equal texts were."
        )
    if measured.overlap:
        yield (
            f"{measured.overlap:,} of {measured.validation_examples:,} held-out examples"
            f" {_are(measured.overlap)} trained on too{_first(measured, 'Overlap')}, so the held-out loss"
            " flatters the adapter; remove them from one of the two."
        )
    if measured.mojibake:
        yield (
            f"{_examples(measured.mojibake)} {_holds(measured.mojibake)} text that was decoded wrongly, or"
            f" characters that were lost{_first(measured, 'Mojibake')}; repair them in the source."
        )
    if measured.unsupervised:
        yield (
            f"{_examples(measured.unsupervised)} {_has(measured.unsupervised)} no token to learn at any"
            f" length{_first(measured, 'Unsupervised')}."
        )
    if measured.empty:
        yield (
            f"{_rows(measured.empty)} {_has(measured.empty)} nothing to learn from and"
            f" {_are(measured.empty)} left out{_first(measured, 'EmptyRow')}."
        )
    if measured.skipped:
        verb = "breaks" if measured.skipped == 1 else "break"
        yield (
            f"{_rows(measured.skipped)} {verb} a rule and {_are(measured.skipped)} left out, as"
            f" dataset.onBadRow says{_first(measured, 'SkippedRow')}."
        )
    if measured.invalid:
        verb = "breaks" if measured.invalid == 1 else "break"
        yield (
            f"{_rows(measured.invalid)} {verb} a rule{_first(measured, 'InvalidRow')}, and training"
            " refuses a file with such a row."
        )
    if any(measured.first_places or ()):
        yield "profile.json names each of these with file and line."


def _first(measured: LanguageProfile, kind: str) -> str:
    """Return where the first finding of a kind is, in parentheses; empty if it is unknown."""
    place = measured.first_place(kind)
    return f" (first in {place})" if place else ""


def _repeats(measured: LanguageProfile) -> str:
    exact, near = measured.duplicates, measured.near_duplicates
    if not exact:
        said = f"{_examples(near)} nearly {'repeats' if near == 1 else 'repeat'} an earlier one"
    else:
        said = f"{_examples(exact)} {'repeats' if exact == 1 else 'repeat'} an earlier one"
        if near:
            said += f" and {near:,} nearly {'does' if near == 1 else 'do'}"
    said += f", of {measured.examples:,}"
    if near > MANY_NEAR * measured.examples:
        said += (
            " (nearly: 80 % of the runs of five words are the same, or of five letters without spaces, "
            "as also in rows of one template that differ in a number; keep those if the number matters)"
        )
    return f"{said}: what repeats is learnt by heart; remove it."


def _examples(count: int) -> str:
    return f"{count:,} example{'' if count == 1 else 's'}"


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _has(count: int) -> str:
    return "has" if count == 1 else "have"


def _holds(count: int) -> str:
    return "holds" if count == 1 else "hold"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"
