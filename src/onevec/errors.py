"""What onevec raises. Each message says what came, what the rule is, what to do next."""


class OnevecError(Exception):
    """Base of every error that onevec raises about its input or its environment."""


class InputError(OnevecError, ValueError):
    """The data, or a parameter, breaks a rule."""


class StoreError(OnevecError):
    """A token store or a saved model is missing, incomplete, corrupt, or of another encoder."""


class MissingExtraError(OnevecError, ImportError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str):
        super().__init__(
            f"this needs the package {package!r}, which is not installed: "
            f"run  pip install 'onevec[{extra}]'"
        )
