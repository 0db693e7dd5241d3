"""Model: BarcodeMAE, and the architectures that it is compared with.

`load_encoder` opens any of their encoders.
PyTorch is imported when `load_encoder` is first asked for, not with this package."""
__all__ = ['load_encoder']


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from .sequence import load_encoder
    return load_encoder
