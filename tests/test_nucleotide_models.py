"""Guards for third-party nucleotide models in barcodemae.bench: every array of the reference outputs, weights and settings that do not fit, batches, public sizes, pickles."""
import json, os, shutil
from pathlib import Path
import numpy as np, pytest, torch
from safetensors.torch import load_file, save_file

from barcodemae.bench.registry import load
from barcodemae.bench.weights import read_weights
from barcodemae.compute import Compute
from barcodemae.core import InputError
from barcodemae.model.hyena import HyenaDNA
from barcodemae.model.mamba import COMPLEMENT, BarcodeMamba, Caduceus
from barcodemae.bench.barcodemamba import BarcodeMambaEmbedder
from barcodemae.bench.caduceus import CaduceusEmbedder
from barcodemae.bench.hyenadna import HyenaEmbedder
from barcodemae.bench.barcodemamba import load_barcodemamba
from barcodemae.bench.caduceus import load_caduceus
from barcodemae.bench.hyenadna import load_hyenadna

FIXTURES = Path(os.environ.get('BARCODEMAE_FIXTURES', Path(__file__).parents[1].parent/'shared/fixtures'))
CPU = Compute(torch.device('cpu'), torch.float32)
CASES = {'hyenadna': 5e-5, 'caduceus_ps': 2e-5, 'barcodemamba': 1e-4}
pytestmark = pytest.mark.filterwarnings('ignore:.*barcodes of up to')


def reference(name):
    here = FIXTURES/name
    if not here.exists(): pytest.skip(f'no reference outputs in {here}')
    return {row['name']: row for row in json.loads((here/'inputs.json').read_text())['sequences']}, dict(np.load(here/'expected.npz')), here


@torch.no_grad()
def hyenadna_arrays(rows, here, tmp_path):
    hyena = load('hyenadna', here, CPU)
    model, one = hyena.model, lambda ids: torch.tensor([ids])
    for name, row in rows.items():
        assert hyena.tokens(row['sequence'][:660]) == row['input_ids']
        yield f'hidden_nopad_{name}', model(one(row['input_ids']))[0]
    for name in ('full_658', 'short_200'):
        yield f'hidden_pad1024_{name}', model(one(rows[name]['pad1024_input_ids']))[0,
            torch.tensor(rows[name]['pad1024_attention_mask']).bool()]
    _, first, last = model.states(one(rows['short_200']['input_ids']))
    yield 'logits_nopad_short_200', model.logits(last)[0]
    yield 'block0_out_short_200', first[0]
    yield 'filter_layer0', model.layers[0].mixer.filter_fn(first.shape[1])
    barcodes = [row['sequence'][:660] for row in rows.values()]
    yield 'pooled_nopad', hyena.encode(barcodes)
    for pad_to in (1024, 1026): yield f'pooled_pad{pad_to}', HyenaEmbedder(model, CPU,
        pad_to).encode(barcodes)


@torch.no_grad()
def caduceus_arrays(rows, here, tmp_path):
    caduceus = load('caduceus_ps', here, CPU)
    model, ids = caduceus.model, torch.tensor([rows['short_200']['input_ids']])
    for name, row in rows.items():
        assert caduceus.tokens(row['sequence']) == row['input_ids']
        yield f'hidden_{name}', model(torch.tensor([row['input_ids']]))[0]
    embedded, first, last = model.states(ids)
    yield 'embedding_out_short_200', embedded[0]
    # the reference's leaves the running sum out
    yield 'hidden_before_layer1_short_200', (first - embedded.roll(model.width, -1))[0]
    yield 'logits_short_200', model.logits(last)[0]
    yield 'hidden_nosep_short_200', model(ids[:, :-1])[0]
    yield 'hidden_nonfused_short_200', load_caduceus(plain_branch(here, tmp_path))(ids)[0]
    barcodes = [row['sequence'] for row in rows.values()]
    yield 'pooled_mean_2d', caduceus.encode(barcodes)
    yield 'pooled_conjoined_d', load('caduceus_ps_conjoined', here, CPU).encode(barcodes)


def plain_branch(here, folder):
    "The same weights by the names of the branch that does not exchange the halves."
    config = {**json.loads((here/'config.json').read_text()), 'fused_add_norm': False}
    (folder/'config.json').write_text(json.dumps(config))
    save_file({n.replace('.norm.weight', '.norm.submodule.weight'): t
               for n, t in load_file(here/'model.safetensors').items()}, folder/'model.safetensors')
    return folder


@torch.no_grad()
def barcodemamba_arrays(rows, path, tmp_path):
    embedder = load('barcodemamba', path, CPU)
    for name, row in rows.items():
        assert embedder.tokens(row['sequence'][:660]) == row['input_ids']
        hidden = embedder.model(torch.tensor([row['input_ids']]))[0]
        yield f'hidden_{name}', hidden
        if name == 'short_200': yield 'logits_short_200', embedder.model.logits(hidden[-16:])
    yield 'pooled', embedder.encode([row['sequence'] for row in rows.values()])


@pytest.mark.parametrize('system, arrays, file', [('hyenadna', hyenadna_arrays, ''),
                                                  ('caduceus_ps', caduceus_arrays, ''),
                                                  ('barcodemamba', barcodemamba_arrays, ''),
                                                  ('barcodemamba', barcodemamba_arrays,
                                                   'checkpoints/last.ckpt')])
def test_every_array_is_the_references(system, arrays, file, tmp_path):
    rows, expected, here = reference(system)
    seen = set()
    for name, ours in arrays(rows, here/file, tmp_path):
        assert ours.shape == expected[name].shape, name
        difference = abs(np.asarray(ours) - expected[name]).max()
        print(f'{name}: {difference:.1e}')
        assert difference < CASES[system], name
        seen.add(name)
    assert seen == set(expected)


def test_strands_of_the_reference_weights():
    rows, expected, here = reference('caduceus_ps')
    model = load_caduceus(here)
    for row in rows.values():
        ids = torch.tensor([row['input_ids'][:-1]])
        with torch.no_grad(): difference = (model(COMPLEMENT[ids].flip(1)).flip(1,
            2) - model(ids)).abs().max()
        print(difference)
        assert difference < 1e-6


def test_the_stored_features_are_those_made_here():
    theirs = load_file(reference('hyenadna')[2]/'model.safetensors')
    fresh = HyenaDNA(32, length=1026, filter_width=16, inner=128).state_dict()
    for name in ('pos_emb.z', 'pos_emb.t', 'modulation.deltas'):
        name = f'layers.0.mixer.filter_fn.{name}'
        assert torch.allclose(fresh[name], theirs[f'hyena.backbone.{name}'], atol=1e-5), name


PROJECTION = {'hyenadna': 'hyena.backbone.layers.1.mixer.in_proj.weight',
              'caduceus_ps': 'caduceus.backbone.layers.1.mixer.submodule.mamba_rev.dt_proj.weight',
              'barcodemamba': 'model.backbone.layers.1.mixer.in_proj.weight'}

def changed(system, change, folder):
    "The reference's folder with other weights."
    here = reference(system)[2]
    weights = load_file(here/'model.safetensors')
    change(weights)
    save_file(weights, folder/'model.safetensors')
    shutil.copyfile(here/'config.json', folder/'config.json')
    return folder

@pytest.mark.parametrize('system', CASES)
@pytest.mark.parametrize('change, told', [
    (lambda w, key: w.pop(key), r'missing layers\.1\.mixer\.'),
    (lambda w, key: w.update({f'{key}s': torch.ones(1)}), r'unknown layers\.1\.mixer\..*s;?'),
    (lambda w, key: w.update({key: w[key][1:].clone()}),
     r'layers\.1\.mixer\..* is \(\d+, \d+\), not \(\d+, \d+\)')])
def test_wrong_weights_are_refused_by_name(system, change, told, tmp_path):
    folder = changed(system, lambda w: change(w, PROJECTION[system]), tmp_path)
    with pytest.raises(InputError, match=told): load(system, folder, CPU)


def test_the_sine_may_be_stored_for_every_layer(tmp_path):
    again = lambda w: w.update({name.replace('.1.freq', f'.{i}.freq'): w[name].clone() for name in list(w)
                                if name.endswith('.1.freq') for i in (3, 5)})
    rows, _, here = reference('hyenadna')
    once, often = (load('hyenadna', folder, CPU).encode([rows['short_200']['sequence']])
                   for folder in (here, changed('hyenadna', again, tmp_path)))
    assert np.array_equal(once, often)


def test_projections_may_be_stored_twice(tmp_path):
    again = lambda w: w.update({name.replace('mamba_fwd', 'mamba_rev'): w[name].clone() for name in list(w)
                                if 'in_proj' in name or 'out_proj' in name})
    load_caduceus(changed('caduceus_ps', again, tmp_path))


@pytest.mark.parametrize('change, told', [(dict(hyena_order=3), 'hyena_order'),
                                          (dict(d_model=None), 'd_model'), (None, 'no config.json')])
def test_wrong_settings_are_refused_by_name(tmp_path, change, told):
    config = dict(d_model=8, n_layer=1, d_inner=16, max_seq_len=32, filter_order=4, emb_dim=5, vocab_size=12)
    if change is not None: (tmp_path/'config.json').write_text(json.dumps({k: v
        for k, v in {**config, **change}.items() if v is not None}))
    with pytest.raises(InputError, match=told): load_hyenadna(tmp_path)


@pytest.mark.parametrize('key, value', [('rcps', False), ('bidirectional_strategy', 'ew_multiply'),
                                        ('bidirectional_weight_tie', False), ('d_model', None)])
def test_settings_that_are_not_built_are_refused(key, value, tmp_path):
    config = dict(d_model=8, n_layer=1, vocab_size=16, complement_map={}, rcps=True)
    (tmp_path/'config.json').write_text(json.dumps({k: v for k, v in {**config, key: value}.items()
                                                    if v is not None}))
    with pytest.raises(InputError, match=key): load_caduceus(tmp_path)


def test_weights_without_a_mamba_in_them(tmp_path):
    for weights in ({'model.head.weight': torch.ones(8, 4)},
                    {f'model.backbone.layers.0.mixer.{k}': torch.ones(2)
                     for k in ('A_log', 'conv1d.weight', 'out_proj.weight')}):
        save_file(weights, tmp_path/'model.safetensors')
        with pytest.raises(InputError, match='misshapen'): load_barcodemamba(tmp_path)


@pytest.mark.parametrize('make', [lambda: HyenaEmbedder(HyenaDNA(32, length=302, filter_width=16), CPU),
                                  lambda: CaduceusEmbedder(Caduceus(16, 2), CPU),
                                  lambda: BarcodeMambaEmbedder(BarcodeMamba(16, heads=2, states=8), CPU)])
def test_alone_is_as_in_a_batch(make):
    torch.manual_seed(0)
    embedder = make()
    barcodes = [''.join(np.random.default_rng(n).choice(list('ACGTN'), n)) for n in (1, 7, 120, 300, 120)]
    together = embedder.encode(barcodes)
    assert abs(np.concatenate([embedder.encode([b]) for b in barcodes]) - together).max() < 1e-4
    with pytest.raises(InputError, match='too short'): embedder.encode([''])


def test_letters_outside_the_alphabet():
    caduceus, mamba = CaduceusEmbedder(Caduceus(8, 1), CPU), BarcodeMambaEmbedder(BarcodeMamba(8, 1, heads=1,
        states=4), CPU)
    assert caduceus.tokens('ACgtnR-') == [7, 8, 9, 10, 11, 6, 6, 1]
    assert mamba.tokens('ACGTNaR-') == [7] * 652 + [3, 4, 5, 6, 7, 2, 2, 2]


@pytest.mark.parametrize('make, width, millions', [
    (lambda: HyenaEmbedder(HyenaDNA(256), CPU), 256, 1.6), (lambda: HyenaEmbedder(HyenaDNA(128), CPU), 128,
                                                            .44),
    (lambda: CaduceusEmbedder(Caduceus(), CPU), 512, 1.9), (lambda: BarcodeMambaEmbedder(BarcodeMamba(), CPU),
                                                            384, 4.4)])
def test_public_sizes_run(make, width, millions):
    embedder = make()
    assert sum(p.numel() for p in embedder.model.parameters()) / 1e6 == pytest.approx(millions, rel=.06)
    vectors = embedder.encode(['ACGT' * 165, 'TTGCA' * 100])
    assert vectors.shape == (2, width) and np.isfinite(vectors).all()


def test_a_second_name_finds_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('BARCODEMAE_CHECKPOINTS', str(tmp_path))
    config = dict(d_model=16, n_layer=1, d_inner=32, max_seq_len=1026, filter_order=8, emb_dim=5,
                  vocab_size=12)
    (tmp_path/'hyenadna').mkdir()
    (tmp_path/'hyenadna/config.json').write_text(json.dumps(config))
    save_file(HyenaDNA(16, 1, filter_width=8, inner=32).state_dict(), tmp_path/'hyenadna/model.safetensors')
    assert load('hyenadna_padded', compute=CPU).pad_to == 1026 and load('hyenadna', compute=CPU).pad_to == 0


class Command:
    "What a pickle may hold: a call that is made when it is read."
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (str(self.path),)


class Odd(dict):
    "An object with a state of its own."
    def __init__(self): self.kept = {1: [2, Path('x')]}


def test_a_training_checkpoint_gives_its_tensors_and_runs_nothing(tmp_path):
    torch.manual_seed(0)
    model = BarcodeMamba(16, heads=2, states=8).eval()
    weights = {f'model.{"" if name.startswith("head") else "backbone."}{name}': t
               for name, t in model.state_dict().items()}
    (tmp_path/'checkpoints').mkdir()
    torch.save({'state_dict': weights, 'hyper_parameters': [Odd(), Command(tmp_path/'run')],
                'callbacks': {Odd: Odd()}, 'type': np.float64}, tmp_path/'checkpoints/last.ckpt')
    with pytest.raises(InputError, match='more than data'): read_weights(tmp_path)
    ours = load('barcodemamba', tmp_path, CPU).model
    assert not (tmp_path/'run').exists()
    assert all(torch.equal(t, ours.state_dict()[name]) for name, t in model.state_dict().items())


def test_a_broken_training_checkpoint_is_refused(tmp_path):
    torch.save({'hyper_parameters': Odd()}, tmp_path/'checkpoint.pt')
    with pytest.raises(InputError, match='more than data'): load('barcodemamba', tmp_path, CPU)
