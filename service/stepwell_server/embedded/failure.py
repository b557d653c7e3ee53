"""The one error of this package: what is wrong and what mends it, for the person at the terminal."""


class EmbeddedError(RuntimeError):
    """The embedded Postgres cannot start or stay; the message says what to do."""
