"""`python -m finetune_operator`: settings, logs, the event loop, and the exit code.

0: stopped. 1: something failed, or another replica leads now; start it again. 2: the settings are
wrong, and starting it again is useless.
"""

import asyncio
import sys

import structlog
import uvloop

from finetune_operator.cluster.connection import load_connection
from finetune_operator.errors import SettingsError
from finetune_operator.logging_setup import set_up_logging
from finetune_operator.runtime import run
from finetune_operator.settings import load_settings

STOPPED, FAILED, MISCONFIGURED = 0, 1, 2


def main() -> int:
    """Run the operator; return the exit code."""
    try:
        settings = load_settings()
        set_up_logging(form=settings.log_format, level=settings.log_level)
        connection = load_connection()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return MISCONFIGURED
    log = structlog.get_logger()
    log.info("Starting.", server=connection.server, identity=settings.pod_name)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings, connection))
    except SettingsError as error:
        log.error("The settings do not work here.", error=str(error))  # noqa: TRY400 - no traceback helps
        return MISCONFIGURED
    except Exception:
        log.exception("The operator failed and ends.")
        return FAILED
    log.info("Stopped.")
    return STOPPED


if __name__ == "__main__":
    sys.exit(main())
