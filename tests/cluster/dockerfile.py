"""Reading of a Dockerfile what decides whether to build it again: the files that it copies."""

import json
import re

CONTINUATION = re.compile(r"\\\s*\n")
COMMENT = re.compile(r"^\s*#.*\n", flags=re.MULTILINE)
COPY = re.compile(r"^\s*(?:COPY|ADD)\s+(.*)$", flags=re.MULTILINE | re.IGNORECASE)


def copied_sources(text: str) -> list[str]:
    """Return the context paths that COPY and ADD name, in order, without those of other stages."""
    plain = CONTINUATION.sub(" ", COMMENT.sub("", text))
    sources: list[str] = []
    for instruction in COPY.findall(plain):
        sources.extend(_sources_of(instruction))
    return list(dict.fromkeys(sources))


def _sources_of(instruction: str) -> list[str]:
    words = instruction.split()
    flags = [word for word in words if word.startswith("--")]
    if any(flag.startswith("--from=") for flag in flags):
        return []
    rest = " ".join(word for word in words if not word.startswith("--"))
    # The JSON form holds paths with spaces.
    paths: list[str] = json.loads(rest) if rest.startswith("[") else rest.split()
    return paths[:-1]
