"""Guards for barcodemae.arguments: what makes no sense is refused, by everything that takes it."""
import dataclasses, importlib, math, pkgutil
from pathlib import Path
from typing import get_args

import nbformat, numpy as np, papermill, pytest, torch
from hypothesis import given, strategies as st
from papermill.exceptions import PapermillExecutionError

import barcodemae
from barcodemae.arguments import Range, check_list, check_parameters
from barcodemae.bench.cnn import CnnConfig
from barcodemae.core import InputError
from barcodemae.data.clean import CleanConfig
from barcodemae.data.store import pack, unpack
from barcodemae.embedding.columns import fit_columns
from barcodemae.embedding.embed import embed
from barcodemae.embedding.kmers import kmer_counts
from barcodemae.embedding.neighbours import nearest
from barcodemae.evaluation.clustering import ward
from barcodemae.evaluation.interactive import MapOptions
from barcodemae.evaluation.linear_probe import LinearProbe
from barcodemae.evaluation.masking import MaskingPlan, mask_bases
from barcodemae.identification.classifier import Ask
from barcodemae.identification.many import Many
from barcodemae.metrics import calibration_error, score
from barcodemae.model.mae import BarcodeEncoder, BarcodeMAEConfig
from barcodemae.model.tokenizer import KmerTokenizer, kmer_ids
from barcodemae.settings import find_dataset
from barcodemae.training.config import PRESETS, TrainConfig, make_config
from barcodemae.training.finetune import FinetuneConfig
from barcodemae.training.optim import OPTIMIZERS, make_optimizers

ROOT = Path(__file__).resolve().parent.parent
NAN, INF = float('nan'), float('inf')
SETTINGS = (TrainConfig, FinetuneConfig, CnnConfig, CleanConfig, MaskingPlan, MapOptions, Ask, Many)


@given(st.floats() | st.integers() | st.booleans() | st.text() | st.none(), st.floats(-9, 9), st.floats(0, 9))
def test_a_range_is_what_it_says(value, low, width):
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    assert (value in Range(low, low + width)) == (number and low <= value <= low + width)
    assert (value in Range(above=low, below=low + width)) == (number and low < value < low + width)
    assert (value in Range(whole=True)) == (number and isinstance(value, int))


def test_every_dataclass_with_ranges_is_among_these():
    found = set()
    for module in pkgutil.walk_packages(barcodemae.__path__, 'barcodemae.'):
        if module.name.endswith('_nbdev'): continue
        for value in vars(importlib.import_module(module.name)).values():
            if dataclasses.is_dataclass(value) and isinstance(value, type) and hasattr(value, 'ranges'):
                found.add(value)
    assert {c for c in found if c.__name__ != 'LoopConfig'} == set(SETTINGS)


@pytest.mark.parametrize('kind', SETTINGS, ids=lambda c: c.__name__)
def test_no_field_takes_nonsense(kind):
    kind() # the defaults make sense
    for field in dataclasses.fields(kind):
        for bad in (NAN, INF, -INF, -1, 'two', b'x', True, [None], object()):
            if isinstance(bad, str) and field.type in (str, 'str'): continue
            if bad is True and field.type in (bool, bool | None): continue
            if bad == [None] and field.name == 'modes': continue
            with pytest.raises(InputError, match='Fix'): kind(**{field.name: bad})


def test_the_optimizers_of_the_settings_are_those_that_exist():
    assert get_args(TrainConfig.__dataclass_fields__['optimizer'].type) == OPTIMIZERS
    with pytest.raises(InputError, match='sgd'): make_optimizers(torch.nn.Linear(1, 1), 'sgd', .1, 0.)


def test_ranges_name_fields():
    for kind in SETTINGS: assert set(kind.ranges) <= {f.name for f in dataclasses.fields(kind)}


@pytest.mark.parametrize('preset', PRESETS)
def test_presets_make_sense(preset): assert make_config(preset).preset == preset


SENSELESS = [
    dict(layers=0), dict(heads=7), dict(decoder_heads=7), dict(hidden_size=65), dict(dropout=1.5), dict(dropout=NAN),
    dict(learning_rate=NAN), dict(learning_rate=INF), dict(learning_rate=0), dict(learning_rate=1e30),
    dict(batch_size=0), dict(batch_size=2.5), dict(mask_ratio=0), dict(mask_ratio=1), dict(mask_ratio=NAN),
    dict(k=6.0), dict(k='6'), dict(weight_decay=NAN), dict(epochs=0), dict(minutes=NAN), dict(warmup=2), dict(seed=-1),
    dict(validations=0), dict(checkpoint_steps=0), dict(compiled='no'), dict(aligned='yes'), dict(registered='yes'),
    dict(dataset=123), dict(steps=2, minutes=3), dict(steps=2, epochs=3), dict(variant='caduceus', hidden_size=63)]

@pytest.mark.parametrize('changes', SENSELESS, ids=str)
def test_pretraining(changes):
    with pytest.raises(InputError, match='Fix'): make_config('demo', **changes)


def test_an_untrained_encoder_needs_no_budget():
    assert make_config('demo', steps=0, minutes=3).steps == 0


BASES = np.tile(np.arange(4, dtype=np.uint8), (3, 165))
VECTORS = np.eye(3)

@pytest.mark.parametrize('call', [
    lambda: pack('ACGT'), lambda: pack(b'ACGT'), lambda: pack(5), lambda: pack(None), lambda: pack([None]),
    lambda: unpack(BASES[0]), lambda: unpack(BASES + 5), lambda: unpack(BASES / 2), lambda: unpack(['ACGT']),
    lambda: nearest(VECTORS, VECTORS, 0), lambda: nearest(VECTORS, VECTORS, 4), lambda: nearest(VECTORS, VECTORS, 1.5),
    lambda: nearest(VECTORS, VECTORS, block=0), lambda: ward(VECTORS, 0), lambda: ward(VECTORS, 1.5),
    lambda: ward(VECTORS, NAN), lambda: fit_columns(BASES, size=0), lambda: kmer_counts(BASES, 0),
    lambda: LinearProbe(steps=0), lambda: LinearProbe(learning_rate=NAN), lambda: LinearProbe(batch_size=-1),
    lambda: mask_bases('ACGTAC', NAN, 'masked', [0.]), lambda: mask_bases('ACGTAC', 1.5, 'removed', [0.]),
    lambda: score(np.array([]), np.array([])), lambda: calibration_error([2.], [True]),
    lambda: calibration_error([NAN], [True]), lambda: calibration_error([.5], [True], bins=0),
    lambda: KmerTokenizer(0), lambda: KmerTokenizer(6.), lambda: find_dataset(''),
    lambda: kmer_ids(torch.zeros(660, dtype=torch.uint8), 6), lambda: kmer_ids(torch.zeros(1, 660), 6)])
def test_functions(call):
    with pytest.raises(ValueError) as e: call()
    assert len(str(e.value)) > 20


@pytest.fixture(scope='module')
def encoder():
    shape = dict(k=4, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    return BarcodeEncoder(BarcodeMAEConfig(**shape))


@pytest.mark.parametrize('batch_size', [0, -1, 1.5, NAN, True, '8'])
def test_batch_sizes_of_embed(encoder, batch_size):
    with pytest.raises(InputError, match='batch_size'): embed(encoder, BASES, batch_size)


@pytest.mark.parametrize('bases', ['ACGT', ['ACGT'], BASES[0], BASES + 9, BASES.astype(float), np.array(3)], ids=str)
def test_bases_of_embed(encoder, bases):
    with pytest.raises(InputError, match='pack them'): embed(encoder, bases)


def test_embed_takes_what_holds_codes_and_no_other_encoder(encoder):
    vectors = embed(encoder, BASES)
    for same in (BASES.astype(np.int64), torch.from_numpy(BASES)): assert (embed(encoder, same) == vectors).all()
    with pytest.raises(InputError, match='load_encoder'): embed('encoder', BASES)


def test_lists():
    for good in (['A'], ('A',), np.array(['A']), iter(['A'])): assert check_list('x', good) == ['A']
    model = barcodemae.load_model()
    for bad in ('ACGT' * 100, [None], 5):
        with pytest.raises(InputError, match='Fix'): model.align(bad)


# --- parameters of notebooks

NOTEBOOKS = [p for p in sorted((ROOT/'nbs').rglob('*.ipynb')) if '"parameters"' in p.read_text(encoding='utf-8')]

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_ask_for_unknown_parameters_before_anything_else(path):
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == 'code']
    at, = [i for i, c in enumerate(code) if 'parameters' in c.metadata.get('tags', [])]
    assert 'check_parameters(In' in code[at + 1].source


def test_papermill_with_a_parameter_that_the_notebook_lacks(tmp_path):
    source = nbformat.read(ROOT/'nbs/04_train.ipynb', as_version=4)
    at, = [i for i, c in enumerate(source.cells) if 'parameters' in c.metadata.get('tags', [])]
    source.cells = source.cells[at:at + 2]
    nbformat.write(source, tmp_path/'a.ipynb')
    def run(**given):
        papermill.execute_notebook(tmp_path/'a.ipynb', tmp_path/'b.ipynb', given, progress_bar=False)
    with pytest.raises(PapermillExecutionError, match='InputError: k: no such parameter of this notebook') as e:
        run(k=4)
    assert 'overrides: {k: 4}' in str(e.value)
    run(steps=3)


def test_only_names_of_the_cell_above_count():
    cells = ['', 'a = 1', '# Parameters\na = 2\n', 'b = 3', 'c = 4', '# Parameters\nb = 1\nd = 1']
    check_parameters(cells[:5])
    with pytest.raises(InputError, match='b, d: no such parameter'): check_parameters(cells)


@pytest.mark.parametrize('name, value', [('nope', '3'), ('learning_rate', 'nan'), ('k', '9'), ('heads', '7')])
def test_the_command_refuses_settings(name, value, tmp_path, capsys):
    from barcodemae.cli import main
    given = ['train', '-o', str(tmp_path/'run'), '--preset', 'demo', '-p', name, value]
    assert main(given) == 1 and f'{name}' in (said := capsys.readouterr().err) and 'Fix' in said
    assert not (tmp_path/'run').exists()
