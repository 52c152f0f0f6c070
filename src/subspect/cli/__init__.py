"""The command line: one thin function for each command.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 something given cannot be used (the message
says what to do), 2 wrong usage, 130 interrupted.
"""

# isort: off
from subspect.cli import main_job, study, questions, filters, handing_on  # noqa: F401 (in the order of the help)

# isort: on
from subspect.cli.app import app, main
from subspect.cli.printing import err, out

__all__ = ["app", "err", "main", "out"]
