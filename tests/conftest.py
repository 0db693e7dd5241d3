"""The same examples in every run of the tests; search for new ones with `pytest --hypothesis-profile=search`.

Processes that are killed and continued (`processes`) are forked from one that has imported what is slow."""
import multiprocessing, os, sys
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile('same', derandomize=True, deadline=None)
settings.register_profile('search', deadline=None)
settings.load_profile('same')

# data sets that may not be passed on (data/README.md), where a folder beside the project has them
for name in ('coi_mini', 'annelida', 'amphibia'):
    beside = Path(__file__).resolve().parents[2]/'shared/data'/f'{name}.csv.gz'
    if beside.exists(): os.environ.setdefault(f'BARCODEMAE_{name.upper()}', str(beside))


@pytest.fixture(scope='session')
def processes():
    context = multiprocessing.get_context('forkserver' if sys.platform == 'linux' else 'spawn')
    context.set_forkserver_preload(['barcodemae.training.pretrain', 'barcodemae.embedding.shards'])
    return context
