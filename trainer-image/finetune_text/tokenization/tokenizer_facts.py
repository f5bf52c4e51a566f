"""What is said of a tokenizer beside its counts: its identity, its family, its English.

Beside `tokenizer`. A family is known by its vocabulary and not by the model's name, so that a copy in
a bucket of one's own is recognised too. Pure, but for the reading of the tokenizer's files.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from finetune_api.profile import TokenizerProfile

IDENTITY_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)
"""What can change a token or a label; the last names what ends an answer."""
FINGERPRINT = slice(1000, 21_000)
"""Ids whose tokens make a vocabulary known: no special ones, and in every vocabulary of size."""
FAMILIES = {
    "29b6f237e9c142ca": "llama2",
    "5bdcc7287601ff49": "llama31",
    "905c9d88e8700ede": "qwen3",
    "32fc0346b5f6d6f2": "gemma3",
}
"""Fingerprint to family, as the language catalogue calls it. Of Meta's Llama 2 and 3.1 to 3.3, Qwen2
to Qwen3, and Gemma 3."""
ENGLISH = """\
The market opens before the sun is up. Farmers bring beans, maize and bananas on bicycles, and by six
o'clock the first customers are asking for prices. A woman who has sold tea at the same corner for
twenty years says that the rain decides everything: when the road is dry, a bag of rice costs less, and
when the river rises nobody can promise anything. Her daughter studies at the university in the city
and comes home for the holidays. She wants to become an engineer, because the bridge behind the school
has been closed since last year and the children have to walk around the hill every morning. In the
evening people listen to the news on the radio, discuss the election, and argue about football. Most of
them agree that a good teacher is worth more than a new building. The local health worker explains how
to keep drinking water clean, which vaccines a child needs, and why it matters to finish a medicine even
if one already feels better. Later, when the stars are out, somebody tells the old story of the hare who
was too clever to be honest, and the youngest ones fall asleep before it ends.
"""
"""Plain prose of our own, with which the tokenizer's English is counted."""


def describe_tokenizer(tokenizer: Tokenizer, folder: Path) -> TokenizerProfile:
    """Return what is known of the tokenizer of a folder."""
    ids: Sequence[int] = tokenizer.encode(ENGLISH, add_special_tokens=False).ids
    return TokenizerProfile(
        sha256=hash_tokenizer(folder),
        family=FAMILIES.get(fingerprint(tokenizer), ""),
        vocabulary=tokenizer.get_vocab_size(with_added_tokens=True),
        english_bytes_per_token=len(ENGLISH.encode()) / max(1, len(ids)),
    )


def hash_tokenizer(folder: Path) -> str:
    """Return the SHA-256 over names and contents of the tokenizer's files."""
    whole = hashlib.sha256()
    for name in IDENTITY_FILES:
        path = folder / name
        if path.is_file():
            whole.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def fingerprint(tokenizer: Tokenizer) -> str:
    """Return a hash of the common part of a vocabulary, the same whatever was added to it."""
    tokens = [
        tokenizer.id_to_token(place) or "" for place in range(FINGERPRINT.start, FINGERPRINT.stop)
    ]
    return hashlib.sha256("\n".join(tokens).encode("utf-8", "surrogatepass")).hexdigest()[:16]
