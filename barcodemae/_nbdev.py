"""The console command `nbdev_test`: another name for nbdev's own `nbdev-test`, with its arguments.

Written by hand, not from a notebook."""

# The script must call nbdev's function itself: called from any other module than a script, it reads no command line.
try:
    from nbdev.test import nbdev_test
except ImportError as error:
    why = str(error)

    def nbdev_test():
        "Say what is missing."
        fix = "pip install 'barcodemae[notebooks]'"
        raise SystemExit(f'nbdev_test: nbdev is not installed here ({why}). Fix: {fix}')
