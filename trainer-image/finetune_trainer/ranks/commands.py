"""What rank 0 has the other ranks do: one JSON object a line on their standard input.

Written by `launcher`, read by `worker`. A command names what all ranks do together next; its numbers
come back through collectives (`distributed`), never as an answer. The end of the input ends the rank.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class CommandPart(BaseModel):
    """Base of every command."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Begin(CommandPart):
    """Load the model and join the process group."""

    kind: Literal["begin"] = "begin"
    model: str
    """The base model's folder."""
    corpus: str
    """The folder that `worker_files.write_corpus` wrote."""
    rendezvous: str
    """The file where the ranks find each other."""


class LoadState(CommandPart):
    """Go on from a checkpoint."""

    kind: Literal["state"] = "state"
    folder: str
    """The folder that `worker_files.write_state` wrote."""


class DoStep(CommandPart):
    """Do an optimizer step."""

    kind: Literal["step"] = "step"
    step: int
    """Counts from 0."""
    learning_rate: float


class Evaluate(CommandPart):
    """Evaluate the held-out part."""

    kind: Literal["evaluate"] = "evaluate"
    base: bool
    """Without the adapter."""


Command = Begin | LoadState | DoStep | Evaluate
_COMMANDS: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="kind")])


def parse_command(line: str) -> Command:
    """Return the command of a line."""
    return _COMMANDS.validate_json(line)
