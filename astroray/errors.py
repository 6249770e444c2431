"""Every error class of astroray: the class says who acts, the message what to do.

AstrorayError
├── ConfigError        the user, before the run starts; exit code 2
├── DataError          the data; the row or shard is rejected and counted, the run goes on
│   ├── SchemaError    a table lacks a column or has one of another type
│   ├── ShardError     a whole shard cannot be read
│   └── FileError      an input file is missing or may not be read
├── StorageError       the disk or object store, after the retries; exit code 1
├── LedgerError        the run directory: another writer, changed inputs, failed checks; exit code 1
└── BackendError       the machine lacks what was asked for; exit code 1

Anything else is a bug and stops the run.
"""


class AstrorayError(Exception):
    """Base of all errors that astroray raises on purpose; takes one message."""

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of a traceback: the message says what to do."""
        return [f"{type(self).__name__}: {self}"]


class ConfigError(AstrorayError):
    """The user asked for something that cannot work; raised before the first row is read."""

    exit_code = 2


class DataError(AstrorayError):
    """The data are at fault: a row or a shard is rejected with this message as its reason."""


class SchemaError(DataError):
    """A table lacks a promised column or has it in another type."""


class ShardError(DataError):
    """A shard cannot be read as a whole."""


class FileError(DataError):
    """An input file is missing, is no file, or may not be read."""


class StorageError(AstrorayError):
    """Reading or writing failed after the retries: disk full, no permission, store down."""


class LedgerError(AstrorayError):
    """The run directory refuses: another writer holds it, inputs changed, or a check failed."""


class BackendError(AstrorayError):
    """This machine lacks the device or library that was asked for."""
