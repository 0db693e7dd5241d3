"""The console command `nbdev_test`: another name for nbdev's own `nbdev-test`. Written by hand, not from a notebook."""


def nbdev_test():
    "Run every code cell of the notebooks; takes nbdev-test's own arguments."
    try:
        from nbdev.test import nbdev_test as command
    except ImportError as error:
        raise SystemExit("nbdev_test: nbdev is not installed here. Mend: pip install 'barcodemae[notebooks]'"
                         f" (the import said: {error})")
    return command()
