"""The same examples in every run of the tests; search for new ones with `pytest --hypothesis-profile=search`."""
from hypothesis import settings

settings.register_profile('same', derandomize=True, deadline=None)
settings.register_profile('search', deadline=None)
settings.load_profile('same')
