"""Everything that goes wrong between the operator and the world outside it.

OperatorError
├── SettingsError            the admin must correct the operator's settings; a retry is useless
├── CertificateError         the admin must give the certificate or the rights to make one
├── TokenRefusedError        the pod that reports must show another token
├── LeaseLostError           another replica leads; this process stops
└── ClusterError             the API server's answer
    ├── NotFoundError        the object is gone
    ├── AlreadyExistsError   the name is taken
    ├── ConflictError        the object changed since it was read; read it again
    ├── GoneError            the resourceVersion is too old; list again
    ├── ForbiddenError       RBAC, quota or admission says no
    ├── UnauthorizedError    the operator's own credentials are refused
    ├── InvalidObjectError         the API server cannot accept this object
    └── UnavailableError     overload, outage or a broken connection; a retry helps
"""


class OperatorError(Exception):
    """Base of every error that the operator raises."""


class SettingsError(OperatorError):
    """The operator's settings are wrong; the admin must correct them."""


class CertificateError(OperatorError):
    """The status server has no certificate; the admin must give one or the rights to make one."""


class TokenRefusedError(OperatorError):
    """A progress report came without a token that proves where it comes from."""


class LeaseLostError(OperatorError):
    """The lease could not be renewed in time; another replica may lead."""


class ClusterError(OperatorError):
    """The API server did not do what was asked.

    Args:
        message: what was asked and what was answered.
        code: HTTP status of the answer; 0 where there was none.
        answer: the API server's own words.
        retry_after_s: seconds that the API server asked to wait, or None.
    """

    def __init__(
        self, message: str, *, code: int = 0, answer: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.answer = answer or message
        self.retry_after_s = retry_after_s


class NotFoundError(ClusterError):
    """The object, or the whole kind, does not exist."""


class AlreadyExistsError(ClusterError):
    """An object of this name exists."""


class ConflictError(ClusterError):
    """The object is another than the one that was read; read it again."""


class GoneError(ClusterError):
    """The resourceVersion is no longer kept; list again."""


class ForbiddenError(ClusterError):
    """RBAC, quota or admission refused; the message says which."""


class UnauthorizedError(ClusterError):
    """The operator's own credentials were refused."""


class InvalidObjectError(ClusterError):
    """The API server cannot accept the object as it is."""


class UnavailableError(ClusterError):
    """The API server is overloaded, away or was cut off; a retry helps."""
