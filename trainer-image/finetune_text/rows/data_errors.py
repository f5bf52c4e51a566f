"""Faults: what is wrong with a line or a file, for a person to mend. Values only; below everything else."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """What is wrong with one line, and the rule that it breaks."""

    line: int
    """0 where the file as a whole is at fault."""
    problem: str
    """Continues "line 37 …": what is wrong."""
    rule: str
    """What is allowed, and what to do."""
    ends_file: bool = False
    """Whether nothing of the file can be read after it."""


class BrokenFileError(Exception):
    """The file cannot be read further."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.problem)
        self.fault = fault
