"Guards for model.pooling: one vector, whoever runs the encoder, in whatever precision; pretraining pays nothing."
import itertools, shutil

import numpy as np, pytest, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

import barcodemae
from barcodemae.compute import Compute
from barcodemae.core import InputError, read_json, write_json
from barcodemae.data.noise import disturb, reverse_complement
from barcodemae.data.store import load_dataset
from barcodemae.identification.model import DEFAULT_MODEL, AlignedEncoder, Model, save_model
from barcodemae.model import load_encoder
from barcodemae.model.mae import VARIANTS, BarcodeEncoder, BarcodeMAEConfig, BarcodeMAEForPreTraining
from barcodemae.model.pooling import Pooled, Whitening
from barcodemae.model.sequence import ARCHITECTURES, SequenceConfig, SequenceEncoder, SequenceForPreTraining
from barcodemae.model.tokenizer import kmer_ids
from barcodemae.training.config import make_config
from barcodemae.training.run_folder import RunFolder

SMALL = dict(k=4, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
EXACT = Compute(torch.device('cpu'), torch.float32)
STORE = load_dataset('demo')
WHOLE = STORE.sequences(STORE.rows('test')[:12])


def queries(): # as people have them
    odd = [*disturb(WHOLE[:4], 'one base deleted'), *disturb(WHOLE[:4], 'substitutions and indels'),
           *map(reverse_complement, WHOLE[:3]), WHOLE[0][100:330], WHOLE[1][400:], WHOLE[2][:300] + 'N' * 20 +
           WHOLE[2][320:], 'ACGTTGCATGCA' * 3 + WHOLE[3] + 'GGTTCCAAGGTT' * 4, WHOLE[5].lower().replace('t', 'u')]
    return {str(i): text for i, text in enumerate([*WHOLE, *odd])}


def by_transformers(folder, texts, **how):
    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, **how)
    with torch.no_grad(): return encoder(**tokenizer(texts, padding=True, return_tensors='pt')).pooler_output


def by_command(model):
    return torch.from_numpy(barcodemae.embed(queries(), model=model, quiet=True)['embedding'].to_numpy().copy())


def unit(x): return torch.nn.functional.normalize(x, dim=1)


@pytest.fixture(scope='module')
def run(tmp_path_factory): # the folder best of a run on aligned barcodes
    folder = tmp_path_factory.mktemp('pooling')/'run'
    torch.manual_seed(0)
    encoder = BarcodeEncoder(BarcodeMAEConfig(**SMALL, reference=Model().consensus))
    RunFolder(folder, make_config('demo')).save_encoder('best', encoder)
    return folder/'best'


@pytest.fixture(scope='module')
def fitted(run, tmp_path_factory): # a model folder made of it
    folder = tmp_path_factory.mktemp('pooling')/'model'
    save_model(folder, load_encoder(run), np.array(STORE.bases[STORE.rows('pretrain')[:1000]]))
    return folder


def test_transformers_gives_the_vectors_of_the_command(run, fitted):
    for folder in (DEFAULT_MODEL, fitted, run):
        here = by_transformers(folder, list(queries().values()), dtype=torch.float32)
        there = by_command(AlignedEncoder(folder, EXACT))
        assert torch.allclose(here if folder != run else unit(here), there, atol=2e-5), folder
        assert torch.allclose(there.norm(dim=1), torch.tensor(1.), atol=1e-5)
    here = by_transformers(DEFAULT_MODEL, list(queries().values())) # as it is saved, in fp16
    assert (here * by_command(None)).sum(1).min() > .9995          # and in this machine's fastest precision


PRECISIONS = [None, torch.float32, torch.float16, torch.bfloat16]

@pytest.mark.parametrize('weights, after, cast', list(itertools.product(
    PRECISIONS, [None, 'half', 'bfloat16', 'float'], [None, torch.float16, torch.bfloat16])), ids=str)
def test_the_encoder_of_the_library_runs_in_every_precision(weights, after, cast):
    "Saved in fp16, opened so or otherwise, converted, under autocast: vectors differ by less than .01."
    ids, mask = kmer_ids(torch.from_numpy(Model().align(WHOLE)), Model().encoder.config.k)
    exact = torch.from_numpy(Model(compute=EXACT).vectors(Model().align(WHOLE)))
    encoder = AutoModel.from_pretrained(DEFAULT_MODEL, **(dict(dtype=weights) if weights else {}))
    assert encoder.dtype == (weights or torch.float16)
    assert not encoder.config.whitened or encoder.whitening.matrix.dtype == torch.float32
    if after: getattr(encoder, after)()
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            with torch.autocast('cpu', cast or torch.bfloat16, enabled=cast is not None):
                found = encoder(ids, mask).pooler_output.detach()
        assert found.dtype == torch.float32
        assert (found - exact).abs().max() < .01 and (found * exact).sum(1).min() > .9995


@pytest.mark.parametrize('variant', ARCHITECTURES)
def test_other_architectures_run_with_any_weights(variant, tmp_path):
    torch.manual_seed(0)
    encoder = SequenceEncoder(SequenceConfig(**SMALL, variant=variant)).eval()
    ids, mask = kmer_ids(torch.from_numpy(STORE.bases[:3].copy()), 4)
    with torch.no_grad():
        exact = encoder(ids, mask).pooler_output
        for dtype in PRECISIONS[1:]:
            encoder.to(dtype).save_pretrained(tmp_path)
            for other in (AutoModel.from_pretrained(tmp_path), encoder.to(dtype)):
                assert torch.allclose(other(ids, mask).pooler_output, exact, atol=.1)
            assert torch.isfinite(encoder.half()(ids, mask).pooler_output).all()


def test_pretraining_pools_nothing(monkeypatch):
    ids, mask = kmer_ids(torch.from_numpy(STORE.bases[:2].copy()), 4)
    nets = [BarcodeMAEForPreTraining(BarcodeMAEConfig(**SMALL, variant=v, decoder_num_hidden_layers=1,
                                                      decoder_num_attention_heads=4)) for v in VARIANTS]
    nets += [SequenceForPreTraining(SequenceConfig(**SMALL, variant=v)) for v in ARCHITECTURES]
    def refuse(*args): raise AssertionError('pooled')
    monkeypatch.setattr(Pooled, 'pool', refuse)
    for net in nets: net(ids, mask).loss.backward()
    with pytest.raises(AssertionError, match='pooled'): nets[0].encoder(ids, mask)


def test_what_forward_gives():
    encoder = BarcodeEncoder(BarcodeMAEConfig(**SMALL)).eval()
    ids, mask = kmer_ids(torch.from_numpy(STORE.bases[:2].copy()), 4)
    with torch.no_grad():
        out = encoder(ids, mask, output_hidden_states=True)
        assert list(out)[:2] == ['last_hidden_state', 'pooler_output'] and len(out.hidden_states) == 3
        for states, vectors in (encoder(ids, mask, return_dict=False), out.to_tuple()[:2]):
            assert torch.equal(states, out.last_hidden_state) and torch.equal(vectors, out.pooler_output)
        assert encoder(inputs_embeds=encoder.get_input_embeddings()(ids)).pooler_output is None
        assert encoder(ids, mask, pooled=False).pooler_output is None
        whole = ids[:, :100] # no padding: a mask says nothing new
        assert torch.allclose(encoder(whole).pooler_output, encoder(whole, mask[:, :100]).pooler_output, atol=1e-6)


def test_whitening_is_set_saved_and_taken_away(tmp_path):
    encoder = BarcodeEncoder(BarcodeMAEConfig(**SMALL)).eval()
    ids, mask = kmer_ids(torch.from_numpy(STORE.bases[:3].copy()), 4)
    mask[2] = False # a barcode without any k-mer
    mean, matrix = np.random.default_rng(0).normal(size=(2, 32, 32)).astype(np.float32)
    with torch.no_grad():
        plain = encoder(ids, mask).pooler_output
        encoder.half().set_whitening(mean[0], matrix)
        encoder.float().save_pretrained(tmp_path)
        white, again = (e(ids, mask).pooler_output for e in (encoder, load_encoder(tmp_path)))
        encoder.set_whitening()
        bare = encoder(ids, mask).pooler_output
    assert torch.equal(white, again) and torch.allclose(bare, plain, atol=1e-2) and not encoder.config.whitened
    assert not (white[2].any() or plain[2].any())
    expected = unit((bare[:2] - torch.from_numpy(mean[0])) @ torch.from_numpy(matrix))
    assert torch.allclose(white[:2], expected, atol=1e-5)
    assert not [name for name in encoder.state_dict() if 'whitening' in name]


def test_a_whitening_that_is_missing_is_told(fitted, tmp_path):
    shutil.copytree(fitted, tmp_path/'m')
    weights = {n: w for n, w in load_file(tmp_path/'m/model.safetensors').items() if 'whitening' not in n}
    save_file(weights, tmp_path/'m/model.safetensors', metadata={'format': 'pt'})
    with pytest.raises(InputError, match='weights are missing .whitening'): load_encoder(tmp_path/'m')


def test_a_model_that_keeps_its_whitening_apart_is_read(fitted, tmp_path):
    shutil.copytree(fitted, tmp_path/'m')
    weights, bases = load_file(fitted/'model.safetensors'), Model().align(WHOLE)
    apart = {name: weights.pop(f'whitening.{name}') for name in ('mean', 'matrix')}
    save_file(weights, tmp_path/'m/model.safetensors', metadata={'format': 'pt'})
    save_file(apart, tmp_path/'m/reading.safetensors')
    config = {n: v for n, v in read_json(fitted/'config.json').items() if n != 'whitened'}
    write_json(tmp_path/'m/config.json', config)
    assert np.array_equal(Model(tmp_path/'m', EXACT).vectors(bases), Model(fitted, EXACT).vectors(bases))


def test_a_model_made_of_a_model_is_whitened_once(fitted, tmp_path):
    some, bases = np.array(STORE.bases[STORE.rows('pretrain')[:1000]]), Model().align(WHOLE)
    again = save_model(tmp_path/'m', load_encoder(fitted), some)
    found, there = (Model(f, EXACT).vectors(bases) for f in (again.folder, fitted))
    assert (found * there).sum(1).min() > .99


def test_embed_needs_an_aligned_encoder_and_no_more(run, tmp_path):
    assert by_command(run).shape == (len(queries()), 32)
    with pytest.raises(InputError, match='no identify.json here.*barcodemae fit'): Model(run)
    BarcodeEncoder(BarcodeMAEConfig(**SMALL)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match='not aligned to the gene.*Fix'): by_command(tmp_path)
    with pytest.raises(InputError, match='no config.json, model.safetensors here.*Fix'): by_command(tmp_path/'none')


def test_zeros_stay_zeros_and_the_rest_has_length_1():
    layer = Whitening(3)
    layer.mean[:] = torch.tensor([1., 2., 3.])
    found = layer(torch.tensor([[0., 0., 0.], [4., 5., 7.]]))
    assert not found[0].any() and found[1].norm() == pytest.approx(1)
