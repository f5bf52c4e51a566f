"""Everything that ends a run on purpose: who must act, and whether another attempt can help.

    TrainerError
    ├── PlanInvalid          64  the plan or a URI in it cannot be obeyed
    ├── DataInvalid          65  the text cannot be learned from as it is
    ├── NotFound             66  a model, dataset or bucket does not exist
    ├── OutOfGpuMemory       67  even the smallest micro-batch does not fit
    ├── NotFinite            68  loss or gradient became NaN or infinite
    ├── ServiceUnavailable   69  S3 or a hub did not answer; another attempt may succeed
    ├── RankLost          70  one of several ranks died without a word
    ├── OutputUnwritable     73  the output refuses what it should hold
    ├── Interrupted          75  stopped after a checkpoint; the next attempt resumes
    ├── AccessDenied         77  credentials were refused
    └── EnvironmentUnfit     78  the pod lacks what the plan needs

Each stage raises these and nothing else on purpose; `__main__` turns them into an outcome and an
exit code, and whatever else escapes is a bug (70). A message is one sentence: the object, what is
wrong with which value, what is allowed, what to do. No message ever holds a credential.
"""

from typing import ClassVar

from finetune_api.wire import ExitCode


class TrainerError(Exception):
    """A known end of a run, with its exit code and a reason that never changes its spelling."""

    exit_code: ClassVar[ExitCode]

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).__name__


class BrokenOff(Exception):
    """Work between two micro-batches that is given up because the pod must go; it is done again later.

    Never an end of its own: who started the work turns it into `Interrupted` after saving.
    """


class PlanInvalid(TrainerError):
    """The user's resource or the plan made from it cannot be obeyed; a retry is useless."""

    exit_code = ExitCode.PLAN_INVALID


class DataInvalid(TrainerError):
    """The user's text or model files cannot be used as they are; a retry is useless."""

    exit_code = ExitCode.DATA_INVALID


class NotFound(TrainerError):
    """The user named a model, dataset or bucket that does not exist; a retry is useless."""

    exit_code = ExitCode.NOT_FOUND


class OutOfGpuMemory(TrainerError):
    """The user needs a smaller plan or a larger GPU; a retry is useless."""

    exit_code = ExitCode.OUT_OF_GPU_MEMORY


class NotFinite(TrainerError):
    """The training diverged; the user lowers the learning rate or cleans the data."""

    exit_code = ExitCode.NOT_FINITE


class ServiceUnavailable(TrainerError):
    """A service of the cluster or the internet did not answer; a retry may help."""

    exit_code = ExitCode.SERVICE_UNAVAILABLE


class RankLost(TrainerError):
    """A rank's process died, of memory or of a fault of its GPU; another attempt goes on."""

    exit_code = ExitCode.BUG


class OutputUnwritable(TrainerError):
    """The place for the adapter refuses it; the user or the owner of the store must act."""

    exit_code = ExitCode.OUTPUT_UNWRITABLE


class Interrupted(TrainerError):
    """The pod was asked to go after a checkpoint; the next attempt resumes there."""

    exit_code = ExitCode.INTERRUPTED


class AccessDenied(TrainerError):
    """Credentials are missing, wrong or too weak; the user or the owner of the store must act."""

    exit_code = ExitCode.ACCESS_DENIED


class EnvironmentUnfit(TrainerError):
    """The pod or its image lacks what the plan needs; the cluster's owner must act."""

    exit_code = ExitCode.ENVIRONMENT_UNFIT
