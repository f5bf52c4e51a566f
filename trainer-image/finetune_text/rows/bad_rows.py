"""Bad rows: what a row that breaks a rule does to the corpus.

Rule: `dataset.onBadRow: Fail` refuses the corpus and names the first rows; `Skip` leaves such rows out,
counts them and names each with file and line. More than one row in ten is no accident, and fails under
either. A file that cannot be read to its end fails too: how many rows are missing is unknown. Pure.
"""

from finetune_api.plan import PlannedDataset
from finetune_api.resource import BadRowPolicy
from finetune_text.rows.data_errors import Fault

MOST_SKIPPED_PERCENT = 10
"""Share of rows that may be left out (assumption): beyond it the file is read wrongly, more likely than
that its rows are wrong."""


def is_skippable(dataset: PlannedDataset, fault: Fault) -> bool:
    """Return whether the row is left out and the rest of the file is read."""
    return dataset.on_bad_row is BadRowPolicy.SKIP and not fault.ends_file


def has_too_many(skipped: int, *, rows: int) -> bool:
    """Return whether more rows are left out than `Skip` allows; a single one never is.

    Args:
        skipped: Rows that break a rule.
        rows: All rows, those included.
    """
    return skipped > max(1, rows * MOST_SKIPPED_PERCENT // 100)
