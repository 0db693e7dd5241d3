"""Guards for barcodemae.hyena: every array of the reference outputs, the long convolution against plain sums, weights that do not fit, gradients, public sizes."""
import json, os, shutil
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file

from barcodemae.baselines import load
from barcodemae.core import Compute, InputError
from barcodemae.hyena import HyenaDNA, HyenaEmbedder, letter_ids, load_hyenadna, long_convolution, next_letter_loss, short_convolution

FIXTURES = Path(os.environ.get('BARCODEMAE_FIXTURES', Path(__file__).parents[1].parent/'shared/fixtures'))
HERE, CPU, ATOL = FIXTURES/'hyenadna', Compute(torch.device('cpu'), torch.float32), 5e-5


@pytest.fixture(scope='module')
def reference():
    if not HERE.exists(): pytest.skip(f'no reference outputs in {HERE}')
    rows = json.loads((HERE/'inputs.json').read_text())['sequences']
    return {row['name']: row for row in rows}, dict(np.load(HERE/'expected.npz')), load('hyenadna', HERE, CPU)


@torch.no_grad()
def found(reference):
    rows, expected, hyena = reference
    model, one = hyena.model, lambda ids: torch.tensor([ids])
    for name, row in rows.items():
        yield f'hidden_nopad_{name}', model(one(row['input_ids']))[0]
        real = torch.tensor(row['pad1024_attention_mask']).bool()
        if f'hidden_pad1024_{name}' in expected: yield f'hidden_pad1024_{name}', model(one(row['pad1024_input_ids']))[0, real]
    ids = one(rows['short_200']['input_ids'])
    yield 'logits_nopad_short_200', model.logits(model(ids))[0]
    yield 'block0_out_short_200', model.layers[0](model.embeddings['word_embeddings'](ids))[0]
    yield 'filter_layer0', model.layers[0].mixer.filter_fn(ids.shape[1])
    barcodes = [row['sequence'][:660] for row in rows.values()]
    yield 'pooled_nopad', hyena.encode(barcodes)
    for pad_to in (1024, 1026): yield f'pooled_pad{pad_to}', HyenaEmbedder(model, CPU, pad_to).encode(barcodes)


def test_every_array_is_the_references(reference):
    expected, seen = reference[1], set()
    for name, ours in found(reference):
        assert ours.shape == expected[name].shape, name
        difference = abs(np.asarray(ours) - expected[name]).max()
        print(f'{name}: {difference:.1e}')
        assert difference < ATOL, name
        seen.add(name)
    assert seen == set(expected)


def test_ids_are_the_references(reference):
    for row in reference[0].values(): assert reference[2].tokens(row['sequence'][:660]) == row['input_ids']


def test_the_stored_features_are_those_made_here(reference):
    theirs = load_file(HERE/'model.safetensors')
    fresh = HyenaDNA(32, length=1026, filter_width=16, inner=128).state_dict()
    for name in ('pos_emb.z', 'pos_emb.t', 'modulation.deltas'):
        name = f'layers.0.mixer.filter_fn.{name}'
        assert torch.allclose(fresh[name], theirs[f'hyena.backbone.{name}'], atol=1e-5), name


KEY = 'hyena.backbone.layers.1.mixer.in_proj.weight'

@pytest.mark.parametrize('change, told', [
    (lambda w: w.pop(KEY), r'missing layers\.1\.mixer\.in_proj\.weight'),
    (lambda w: w.update({'hyena.backbone.surplus': torch.ones(1)}), 'unknown surplus'),
    (lambda w: w.update({KEY: torch.ones(96, 31)}), r'layers\.1\.mixer\.in_proj\.weight is \(96, 31\), not \(96, 32\)')])
def test_wrong_weights_are_refused_by_name(reference, tmp_path, change, told):
    weights = load_file(HERE/'model.safetensors')
    change(weights)
    save_file(weights, tmp_path/'model.safetensors')
    shutil.copyfile(HERE/'config.json', tmp_path/'config.json')
    with pytest.raises(InputError, match=told): load('hyenadna', tmp_path, CPU)


def test_the_sine_may_be_stored_for_every_layer(reference, tmp_path):
    weights = load_file(HERE/'model.safetensors')
    for name in [n for n in weights if n.endswith('.1.freq')]: weights.update({name.replace('.1.freq', f'.{i}.freq'): weights[name].clone() for i in (3, 5)})
    save_file(weights, tmp_path/'model.safetensors')
    shutil.copyfile(HERE/'config.json', tmp_path/'config.json')
    row = reference[0]['short_200']
    assert np.array_equal(load('hyenadna', tmp_path, CPU).encode([row['sequence']]), reference[2].encode([row['sequence']]))


@pytest.mark.parametrize('change, told', [(dict(hyena_order=3), 'hyena_order'), (dict(d_model=None), 'd_model'), (None, 'no config.json')])
def test_wrong_settings_are_refused_by_name(tmp_path, change, told):
    config = dict(d_model=8, n_layer=1, d_inner=16, max_seq_len=32, filter_order=4, emb_dim=5, vocab_size=12)
    if change is not None: (tmp_path/'config.json').write_text(json.dumps({k: v for k, v in {**config, **change}.items() if v is not None}))
    with pytest.raises(InputError, match=told): load_hyenadna(tmp_path)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60))
def test_a_long_convolution_is_a_sum_over_letters_before(T, tail):
    generator = torch.Generator().manual_seed(T)
    x, taps = torch.randn(2, 3, T, generator=generator), torch.randn(3, T, generator=generator)
    plainly = torch.stack([(x[..., :t + 1] * taps[:, :t + 1].flip(-1)).sum(-1) for t in range(T)], -1)
    assert torch.allclose(long_convolution(x, taps), plainly, atol=1e-4)
    longer = torch.cat([x, torch.randn(2, 3, tail, generator=generator)], -1)
    assert torch.allclose(long_convolution(longer, torch.cat([taps, torch.randn(3, tail, generator=generator)], -1))[..., :T], plainly, atol=1e-4)


@pytest.mark.parametrize('taps', [1, 3, 4])
def test_a_short_convolution_is_that_of_torch(taps):
    conv, x = torch.nn.Conv1d(6, 6, taps, groups=6), torch.randn(2, 9, 6)
    theirs = torch.nn.functional.conv1d(torch.nn.functional.pad(x.mT, (taps - 1, 0)), conv.weight, conv.bias, groups=6).mT
    assert torch.allclose(short_convolution(conv, x), theirs, atol=1e-6)


def test_alone_is_as_in_a_batch():
    torch.manual_seed(0)
    hyena = HyenaEmbedder(HyenaDNA(32, length=300, filter_width=16), CPU)
    barcodes = [''.join(np.random.default_rng(n).choice(list('ACGTN'), n)) for n in (1, 7, 120, 298, 120)]
    together = hyena.encode(barcodes)
    assert abs(np.concatenate([hyena.encode([b]) for b in barcodes]) - together).max() < 1e-4
    with pytest.raises(InputError, match='too short'): hyena.encode([''])


def test_letters_outside_the_alphabet_are_unknown():
    assert letter_ids('ACGTN') == [7, 8, 9, 10, 11, 1] and letter_ids('acgtRYK-U ') == [6] * 10 + [1] and letter_ids('') == []


def test_gradients_flow_to_every_parameter():
    torch.manual_seed(0)
    model = HyenaDNA(16, length=40, filter_width=8)
    next_letter_loss(model, torch.randint(7, 12, (2, 30))).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize('width, millions', [(256, 1.6), (128, .44)])
def test_public_sizes_run(width, millions):
    model = HyenaDNA(width)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=.06)
    vectors = HyenaEmbedder(model, CPU).encode(['ACGT' * 165, 'TTGCA' * 100])
    assert vectors.shape == (2, width) and np.isfinite(vectors).all()
    with pytest.raises(InputError, match='1027 letters'): model(torch.full((1, 1027), 7))


def test_a_second_name_finds_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('BARCODEMAE_CHECKPOINTS', str(tmp_path))
    config = dict(d_model=16, n_layer=1, d_inner=32, max_seq_len=1026, filter_order=8, emb_dim=5, vocab_size=12)
    (tmp_path/'hyenadna').mkdir()
    (tmp_path/'hyenadna/config.json').write_text(json.dumps(config))
    save_file(HyenaDNA(16, 1, filter_width=8, inner=32).state_dict(), tmp_path/'hyenadna/model.safetensors')
    assert load('hyenadna_padded', compute=CPU).pad_to == 1026 and load('hyenadna', compute=CPU).pad_to == 0
