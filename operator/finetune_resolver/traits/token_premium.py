"""How many tokens a language takes against English for the same content (F4).

Only parallel text can tell, and a job's own text has no English beside it. So the catalogue tells: what
was counted for this tokenizer's family, else about how many bytes the language takes, of which the
measurement says what a token holds here and in English. `known` asks it for the resolver, `from_profile`
for status. Pure.
"""

from finetune_resolver.traits.catalogue import FoundLanguage


def estimate_token_premium(
    found: FoundLanguage,
    *,
    family: str,
    bytes_per_token: float | None,
    english_bytes_per_token: float | None,
) -> float | None:
    """Return the premium of a language under a tokenizer, or None where nothing tells it.

    Args:
        found: the language, in the script that its tag tells.
        family: of the tokenizer, as the catalogue calls it; empty where it is none of them.
        bytes_per_token: UTF-8 bytes of a token of the job's text.
        english_bytes_per_token: the same of English prose under the same tokenizer.
    """
    if found.row is not None and family in found.row.evidence.tokens:
        return found.row.evidence.tokens[family][1]
    byte_premium = found.facts.byte_premium
    if not byte_premium or not bytes_per_token or not english_bytes_per_token:
        return None
    return byte_premium * english_bytes_per_token / bytes_per_token
