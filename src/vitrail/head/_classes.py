"""The number of classes."""


def check_num_classes(num_classes: int | None) -> int:
    """Returns the number of classes, or raises a `ValueError` if a head that classifies gets none."""
    if num_classes is None or isinstance(num_classes, bool) or num_classes < 1:
        raise ValueError(
            f"num_classes must be a positive whole number for a head that classifies, got {num_classes}: pass "
            "num_classes, or use head='none' for the pooled vector itself"
        )
    return num_classes
