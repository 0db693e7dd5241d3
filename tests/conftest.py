"""The same examples in every run of the tests; search for new ones with `pytest --hypothesis-profile=search`.

Processes that are killed and continued (`processes`) are split off from one that has imported what is slow."""
import multiprocessing, sys

import pytest
from hypothesis import settings

settings.register_profile('same', derandomize=True, deadline=None)
settings.register_profile('search', deadline=None)
settings.load_profile('same')


@pytest.fixture(scope='session')
def processes():
    context = multiprocessing.get_context('forkserver' if sys.platform == 'linux' else 'spawn')
    context.set_forkserver_preload(['barcodemae.training.pretrain', 'barcodemae.embedding.shards'])
    return context
