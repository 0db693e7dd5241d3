"""The console command `nbdev_test`: another name for nbdev's own `nbdev-test`. Written by hand."""

# The script must call nbdev's function itself: called from another module, it reads no command line.
try:
    from nbdev.test import nbdev_test
except ImportError as error:
    why = str(error)

    def nbdev_test():
        "Say what is missing."
        raise SystemExit(f"nbdev_test: nbdev is not installed here ({why}). "
                         "Fix: pip install 'barcodemae[notebooks]'")
