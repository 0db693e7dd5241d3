"""Guards for training.hub and training.onnx: what transformers opens, what is refused, ONNX as PyTorch."""
import json, re, subprocess, sys

import pytest, torch
from huggingface_hub import ModelCard

from barcodemae.compute import Compute
from barcodemae.data.gaps import align
from barcodemae.data.store import pack
from barcodemae.embedding.embed import embed, kmer_tokens
from barcodemae.identification.model import DEFAULT_MODEL
from barcodemae.model.sequence import SequenceConfig, SequenceEncoder, load_encoder
from barcodemae.core import InputError, read_json, write_json
from barcodemae.model.mae import BarcodeEncoder, BarcodeMAEConfig
from barcodemae.training.hub import DataSource, complete, main, model_card, push_to_hub
from barcodemae.training.onnx import export_onnx, largest_difference, trial_batches
from barcodemae.model.tokenizer import KmerTokenizer

SHAPE = dict(k=4, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
RECORD = dict(dataset='coi_mini', simulated=False, steps=100, barcodes_seen=3200, seconds_training=90.,
              seed=3, compute='cpu float32', machine=dict(barcodemae='0.1.0'))
ROW = dict(k=1, rank='genus', reference='train', query='test_unseen', n=100)
KNN = [dict(ROW, method=method, accuracy=a, low=a - 2, high=a + 2)
       for method, a in dict(model=55., untrained=40., kmer6=56.).items()]
RESULTS = dict(RECORD, encoder='best', evaluated_on='coi_mini', readings=[], knn=KNN)


def make_run(folder, encoder=None, **record):
    torch.manual_seed(0)
    encoder = encoder or BarcodeEncoder(BarcodeMAEConfig(**SHAPE))
    encoder.save_pretrained(folder/'best')
    write_json(folder/'record.json', RECORD | record)
    write_json(folder/'results.json', RESULTS)
    return folder/'best'


@pytest.fixture
def best(tmp_path): return make_run(tmp_path/'run')


class Hub: # notes what it is asked
    def __init__(self, error=None): self.calls, self.error = [], error
    def create_repo(self, repo_id, **how): self.calls.append(('create', repo_id, how))
    def upload_folder(self, **how):
        if self.error: raise self.error
        files = [p.name for pattern in how['allow_patterns'] for p in how['folder_path'].glob(pattern)]
        self.calls.append(('upload', how['repo_id'], sorted(files)))
        return 'https://huggingface.co/here'


OPEN = """
import sys, warnings; warnings.simplefilter('ignore')
{}
assert not [m for m in sys.modules if m.startswith('barcodemae.')], 'models are imported before one is opened'
attention, states = sys.argv[1:]
assert type(AutoConfig.from_pretrained(attention)).__name__ == 'BarcodeMAEConfig'
assert type(AutoModel.from_pretrained(attention)).__name__ == 'BarcodeEncoder'
assert type(AutoTokenizer.from_pretrained(states)).__name__ == 'KmerTokenizer'
assert type(AutoModel.from_pretrained(states)).__name__ == 'SequenceEncoder'
assert AutoConfig.for_model('barcodemae', k=5).k == 5
for folder in sys.argv[1:]:
    out = pipeline('feature-extraction', model=folder, tokenizer=folder)('AACATTATATTTTATTTTTG')
    assert len(out[0]) == 5 and len(out[0][0]) == 32
"""


IMPORTS = ['import barcodemae', 'from transformers import AutoConfig, AutoModel, AutoTokenizer, pipeline']

@pytest.mark.parametrize('lines', ['\n'.join(IMPORTS), '\n'.join(IMPORTS[::-1])], ids=['first', 'last'])
def test_transformers_opens_encoders_after_importing_the_package_alone(lines, tmp_path):
    mamba = SequenceEncoder(SequenceConfig(**SHAPE, variant='mamba'))
    folders = [make_run(tmp_path/'a'), make_run(tmp_path/'b', mamba)]
    for folder in folders: complete(folder)
    command = [sys.executable, '-c', OPEN.format(lines), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


IMPORT = """
import time, sys
start = time.process_time()
import barcodemae
print(time.process_time() - start, sorted({"torch", "transformers", "numpy"} & set(sys.modules)))
"""


def test_importing_the_package_is_fast():
    done = subprocess.run([sys.executable, '-c', IMPORT], capture_output=True, text=True, check=True)
    seconds, heavy = done.stdout.split(maxsplit=1)
    assert float(seconds) < .3 and heavy.strip() == '[]'


def test_card_says_licence_data_accuracy_and_limits(best, tmp_path):
    text = model_card(best, 'me/it')
    header = ModelCard(text).data
    assert header.license == 'cc-by-nc-sa-4.0' and header.library_name == 'transformers'
    assert 'encoder_only' not in header.tags and 'mae' in header.tags
    for part in ('FinPROTAX', '3,200 barcodes', '55.0 [53.0, 57.0]', '`model` is above `untrained`',
                 'intervals of `model` and `kmer6` overlap', "name = 'me/it'"):
        assert part in text, part
    assert 'simulated' not in text and 'untrained**' not in text and str(tmp_path) not in text
    assert 'simulated' in model_card(make_run(tmp_path/'sim', dataset='demo_barcodes', simulated=True))
    assert 'untrained**' in model_card(make_run(tmp_path/'raw', steps=0, barcodes_seen=0))
    tuned = model_card(make_run(tmp_path/'tuned', supervised=True, start='/home/someone/run',
                                pretraining=dict(dataset='coi_mini', steps=10)))
    assert 'fine-tuned on labels** after pretraining' in tuned and 'someone' not in tuned
    encoder = BarcodeEncoder(BarcodeMAEConfig(**SHAPE, reference='ACGT' * 150))
    aligned = model_card(make_run(tmp_path/'aligned', encoder))
    assert 'its tokenizer aligns them' in aligned and 'of either strand' in aligned
    assert 'aligns' not in text and 'in the direction of the gene' in text


def test_card_of_an_encoder_that_was_not_evaluated(best):
    best.rename(best.parent/'last')
    text = model_card(best.parent/'last')
    assert 'not evaluated' in text and '55.0' not in text
    (best.parent/'results.json').unlink()
    (best.parent/'last').rename(best)
    assert 'not evaluated' in model_card(best)


def test_unknown_data_and_licences_that_differ(best, tmp_path):
    source = DataSource('Beetles of our own.', 'cc-by-4.0', 'me/beetles')
    other = make_run(tmp_path/'other', dataset='beetles')
    with pytest.raises(InputError, match="data set beetles.*data=DataSource"): model_card(other)
    header = ModelCard(model_card(other, data=source)).data
    assert header.license == 'cc-by-4.0' and header.datasets == ['me/beetles']
    with pytest.raises(InputError, match='coi_mini, demo_barcodes: the data sets have different licences'):
        model_card(make_run(tmp_path/'two', dataset='demo_barcodes', pretraining=dict(dataset='coi_mini')))


def test_push_sends_the_encoder_and_nothing_else(best):
    for name in ('optimizer.pt', 'notes.txt'): (best/name).write_text('x')
    hub = Hub()
    assert push_to_hub(best, 'me/it', api=hub) == 'https://huggingface.co/here'
    files = ['README.md', 'config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json']
    assert hub.calls == [('create', 'me/it', dict(private=True, exist_ok=True)), ('upload', 'me/it', files)]
    assert KmerTokenizer.from_pretrained(best).k == 4


def test_a_tokenizer_that_does_not_align_is_made_again(tmp_path):
    best = make_run(tmp_path/'run', BarcodeEncoder(BarcodeMAEConfig(**SHAPE, reference='ACGT' * 150)))
    KmerTokenizer(k=4).save_pretrained(best)
    assert 'tokenizer_config.json' in complete(best)
    assert KmerTokenizer.from_pretrained(best).reference == 'ACGT' * 150 and complete(best) == ['README.md']


def without_record(best): (best.parent/'record.json').unlink()
def without_weights(best): (best/'model.safetensors').unlink()
def torn_weights(best): (best/'model.safetensors').write_bytes((best/'model.safetensors').read_bytes()[:500])
def other_tokenizer(best): KmerTokenizer(k=6).save_pretrained(best)
def other_reference(best): KmerTokenizer(k=4, reference='ACGT').save_pretrained(best)
def other_model(best): write_json(best/'config.json', read_json(best/'config.json') | dict(model_type='bert'))
def broken_record(best): (best.parent/'record.json').write_text('{')


def pickled_weights(best):
    torch.save(BarcodeEncoder(BarcodeMAEConfig(**SHAPE)).state_dict(), best/'pytorch_model.bin')
    (best/'model.safetensors').unlink()


SPOILT = [without_record, without_weights, torn_weights, pickled_weights, other_tokenizer, other_reference,
          other_model, broken_record]

@pytest.mark.parametrize('spoil', SPOILT, ids=lambda f: f.__name__)
def test_nothing_is_sent_that_should_not_be(best, spoil):
    spoil(best)
    hub = Hub()
    with pytest.raises(InputError, match='Fix'): push_to_hub(best, 'me/it', api=hub)
    assert hub.calls == [] and not (best/'README.md').exists()


@pytest.mark.parametrize('name', ['it', 'me it/x', 'a/b/c', ''])
def test_names_that_the_hub_does_not_take(best, name):
    with pytest.raises(InputError, match='no name for the hub'): push_to_hub(best, name, api=Hub())


def test_a_hub_that_refuses(best):
    message = r'me/it: the hub did not take it \(ConnectionError: no route\). Fix: log in'
    with pytest.raises(InputError, match=message):
        push_to_hub(best, 'me/it', api=Hub(ConnectionError('no route\nmore')))


def test_command(best, tmp_path, capsys):
    main([str(best)])
    assert (best/'README.md').exists() and 'written: README.md' in capsys.readouterr().out
    other = make_run(tmp_path/'other', dataset='beetles')
    with pytest.raises(SystemExit, match='data set beetles.*Fix'): main([str(other)])
    main([str(other), '--source', 'Beetles of our own.', '--licence', 'cc-by-4.0'])
    assert 'Beetles of our own. Licence: cc-by-4.0.' in (other/'README.md').read_text()


def need_onnx():
    for name in ('onnx', 'onnxscript', 'onnxruntime'):
        pytest.importorskip(name, reason='pip install onnx onnxruntime onnxscript')


def test_onnx_gives_the_vectors_of_pytorch(best, tmp_path):
    need_onnx()
    out = tmp_path/'out/encoder.onnx'
    with pytest.raises(InputError, match='ONNX and PyTorch differ'): export_onnx(best, out, tolerance=0.)
    assert list(out.parent.iterdir()) == []
    assert export_onnx(best, out) < 1e-5 and [p.name for p in out.parent.iterdir()] == ['encoder.onnx']
    torch.manual_seed(1)
    other = BarcodeEncoder(BarcodeMAEConfig(**SHAPE)).eval()
    assert largest_difference(other, out) > .01 # the comparison notices another encoder


def test_onnx_is_refused_for_long_convolutions_and_states(tmp_path):
    need_onnx()
    folder = make_run(tmp_path/'b', SequenceEncoder(SequenceConfig(**SHAPE, variant='hyena')))
    with pytest.raises(InputError, match='hyena has no ONNX form'): export_onnx(folder, tmp_path/'x.onnx')


def test_onnx_that_is_not_installed(best, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(InputError, match='pip install onnx onnxruntime onnxscript'):
        export_onnx(best, tmp_path/'x.onnx')


@pytest.mark.parametrize('k', [3, 6, 8])
def test_trial_batches_have_every_kind_of_token(k):
    ids = torch.cat([i.flatten() for i, m in trial_batches(k)])
    assert {0, 1, 4**k + 2} <= set(ids.tolist())
    assert all(m.dtype == torch.bool and i.dtype == torch.int64 for i, m in trial_batches(k))
    assert any((~m).all(1).any() for i, m in trial_batches(k)), 'no barcode without a k-mer'


def example(card): # the first block of Python in a card
    return re.search(r'```python\n(.+?)```', card, flags=re.S)[1]


DTYPES = [torch.float32, torch.bfloat16, torch.float16]
AUTOCAST = [None, torch.bfloat16, torch.float16]

def in_precision(code, precision): # what a block of Python makes under autocast
    found = {}
    with torch.autocast('cpu', precision or torch.bfloat16, enabled=precision is not None):
        exec(code, found)
    return found

@pytest.mark.parametrize('weights', DTYPES, ids=str)
@pytest.mark.parametrize('precision', AUTOCAST, ids=str)
@pytest.mark.parametrize('reference', [None, 'AACATTATATTTTATTTTTGGAATTTGATCAGG' * 20], ids=['as they come', 'aligned'])
def test_the_example_of_a_card_runs_in_every_precision(weights, precision, reference, tmp_path, monkeypatch):
    "Of an encoder saved so, under any autocast."
    encoder = BarcodeEncoder(BarcodeMAEConfig(**SHAPE, reference=reference)).to(weights)
    folder = make_run(tmp_path/'runs/mine', encoder)
    complete(folder)
    monkeypatch.chdir(tmp_path)
    found = in_precision(example(model_card(folder)), precision)
    assert read_json(folder/'config.json')['dtype'] == str(weights).removeprefix('torch.')
    bases = (align(['AACATTATATTTTATTTTTGGAATTTGATCAGG'], reference).bases if reference else
             pack(['AACATTATATTTTATTTTTGGAATTTGATCAGG']))
    exact = embed(load_encoder(folder), bases, compute=Compute(torch.device('cpu'), torch.float32),
                  tokens=kmer_tokens(4))
    assert found['vectors'].shape == (1, 32) and found['vectors'].numpy() == pytest.approx(exact, abs=.1)


@pytest.mark.parametrize('precision', AUTOCAST, ids=str)
def test_the_example_of_the_encoder_that_comes_with_the_library_runs(precision, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = in_precision(example((DEFAULT_MODEL/'README.md').read_text(encoding='utf-8')), precision)
    assert found['vectors'].shape == (1, 384) and found['vectors'].norm() == pytest.approx(1)
