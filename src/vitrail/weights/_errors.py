"""What is wrong with a file of weights."""


class CheckpointError(ValueError):
    """A file of weights that is not what it should be. The message names the file, and the tensor if it is one."""
