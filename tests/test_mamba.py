"""Guards for barcodemae.mamba: every array of both reference outputs, scans against a plain loop, strands, weights that do not fit, gradients, public sizes."""
import json, os, shutil
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from barcodemae.baselines import load, read_weights
from barcodemae.core import Compute, InputError
from barcodemae.hyena import next_letter_loss
from barcodemae.mamba import (COMPLEMENT, BarcodeMamba, BarcodeMambaEmbedder, Caduceus, CaduceusEmbedder, fresh_steps, head_scan, join_strands, load_barcodemamba,
                              load_caduceus, selective_scan)

FIXTURES = Path(os.environ.get('BARCODEMAE_FIXTURES', Path(__file__).parents[1].parent/'shared/fixtures'))
CPU = Compute(torch.device('cpu'), torch.float32)
CASES = {'caduceus_ps': 2e-5, 'barcodemamba': 1e-4}


def reference(name):
    here = FIXTURES/name
    if not here.exists(): pytest.skip(f'no reference outputs in {here}')
    return {row['name']: row for row in json.loads((here/'inputs.json').read_text())['sequences']}, dict(np.load(here/'expected.npz')), here


def same(found, expected, atol):
    "All arrays within the tolerance, none left out."
    seen = set()
    for name, ours in found:
        assert ours.shape == expected[name].shape, name
        difference = abs(np.asarray(ours) - expected[name]).max()
        print(f'{name}: {difference:.1e}')
        assert difference < atol, name
        seen.add(name)
    assert seen == set(expected)


@torch.no_grad()
def caduceus_arrays(rows, here, tmp_path):
    model = load_caduceus(here)
    for name, row in rows.items(): yield f'hidden_{name}', model(torch.tensor([row['input_ids']]))[0]
    ids = torch.tensor([rows['short_200']['input_ids']])
    strands = model.embeddings(ids)
    yield 'embedding_out_short_200', join_strands(strands)[0]
    yield 'hidden_before_layer1_short_200', join_strands(model.layers[0](strands, torch.zeros_like(strands))[0])[0]
    yield 'logits_short_200', model.logits(model(ids))[0]
    yield 'hidden_nosep_short_200', model(ids[:, :-1])[0]
    plain = plain_branch(here, tmp_path)
    yield 'hidden_nonfused_short_200', load_caduceus(plain)(ids)[0]
    barcodes = [row['sequence'] for row in rows.values()]
    yield 'pooled_mean_2d', load('caduceus_ps', here, CPU).encode(barcodes)
    yield 'pooled_conjoined_d', load('caduceus_ps_conjoined', here, CPU).encode(barcodes)


def plain_branch(here, folder):
    "The same weights by the names of the branch that does not exchange the halves."
    config = {**json.loads((here/'config.json').read_text()), 'fused_add_norm': False}
    (folder/'config.json').write_text(json.dumps(config))
    save_file({n.replace('.norm.weight', '.norm.submodule.weight'): t for n, t in load_file(here/'model.safetensors').items()}, folder/'model.safetensors')
    return folder


def test_every_array_of_caduceus(tmp_path):
    rows, expected, here = reference('caduceus_ps')
    same(caduceus_arrays(rows, here, tmp_path), expected, CASES['caduceus_ps'])
    embedder = load('caduceus_ps', here, CPU)
    for row in rows.values(): assert embedder.tokens(row['sequence']) == row['input_ids']


@torch.no_grad()
def barcodemamba_arrays(rows, path):
    embedder = load('barcodemamba', path, CPU)
    barcodes = [row['sequence'] for row in rows.values()]
    for name, row in rows.items():
        assert embedder.tokens(row['sequence'][:660]) == row['input_ids']
        hidden = embedder.model(torch.tensor([row['input_ids']]))[0]
        yield f'hidden_{name}', hidden
        if name == 'short_200': yield 'logits_short_200', embedder.model.logits(hidden[-16:])
    yield 'pooled', embedder.encode(barcodes)


@pytest.mark.filterwarnings('ignore:barcodemamba. barcodes')
@pytest.mark.parametrize('file', ['', 'checkpoints/last.ckpt'])
def test_every_array_of_barcodemamba(file):
    rows, expected, here = reference('barcodemamba')
    same(barcodemamba_arrays(rows, here/file), expected, CASES['barcodemamba'])


PROJECTION = {'caduceus_ps': 'caduceus.backbone.layers.1.mixer.submodule.mamba_rev.dt_proj.weight', 'barcodemamba': 'model.backbone.layers.1.mixer.in_proj.weight'}

@pytest.mark.parametrize('system', CASES)
@pytest.mark.parametrize('change, told', [
    (lambda w, key: w.pop(key), r'missing layers\.1\.mixer\.'),
    (lambda w, key: w.update({f'{key}s': torch.ones(1)}), r'unknown layers\.1\.mixer\..*s;?'),
    (lambda w, key: w.update({key: w[key][1:].clone()}), r'layers\.1\.mixer\..* is \(\d+, \d+\), not \(\d+, \d+\)')])
def test_wrong_weights_are_refused_by_name(system, change, told, tmp_path):
    here = reference(system)[2]
    weights = load_file(here/'model.safetensors')
    change(weights, PROJECTION[system])
    save_file(weights, tmp_path/'model.safetensors')
    shutil.copyfile(here/'config.json', tmp_path/'config.json')
    with pytest.raises(InputError, match=told): load(system, tmp_path, CPU)


def test_projections_may_be_stored_twice(tmp_path):
    rows, expected, here = reference('caduceus_ps')
    weights = load_file(here/'model.safetensors')
    for name in [n for n in weights if 'in_proj' in n or 'out_proj' in n]: weights[name.replace('mamba_fwd', 'mamba_rev')] = weights[name].clone()
    save_file(weights, tmp_path/'model.safetensors')
    shutil.copyfile(here/'config.json', tmp_path/'config.json')
    load_caduceus(tmp_path)


@pytest.mark.parametrize('key, value', [('rcps', False), ('bidirectional_strategy', 'ew_multiply'), ('bidirectional_weight_tie', False), ('d_model', None)])
def test_settings_that_are_not_built_are_refused(key, value, tmp_path):
    config = dict(d_model=8, n_layer=1, vocab_size=16, complement_map={}, rcps=True)
    (tmp_path/'config.json').write_text(json.dumps({k: v for k, v in {**config, key: value}.items() if v is not None}))
    with pytest.raises(InputError, match=key): load_caduceus(tmp_path)


def test_weights_without_a_mamba_in_them(tmp_path):
    for weights in ({'model.head.weight': torch.ones(8, 4)}, {f'model.backbone.layers.0.mixer.{k}': torch.ones(2) for k in ('A_log', 'conv1d.weight', 'out_proj.weight')}):
        save_file(weights, tmp_path/'model.safetensors')
        with pytest.raises(InputError, match='misshapen'): load_barcodemamba(tmp_path)


def plain_scan(x, dt, A, B, C):
    h, ys = x.new_zeros(len(x), *A.shape), []
    for t in range(x.shape[1]):
        h = torch.exp(dt[:, t, :, None] * A) * h + (dt[:, t] * x[:, t])[..., None] * B[:, t, None]
        ys.append((h * C[:, t, None]).sum(-1))
    return torch.stack(ys, 1)


def close(scan, plain, inputs):
    "The same values and slopes."
    inputs = [t.requires_grad_() for t in inputs]
    weight = torch.randn_like(plain(*inputs))
    for slope, theirs in zip(torch.autograd.grad((scan(*inputs) * weight).sum(), inputs), torch.autograd.grad((plain(*inputs) * weight).sum(), inputs)):
        assert (slope - theirs).abs().max() < 1e-4 * max(1, theirs.abs().max())
    with torch.no_grad(): quick = scan(*inputs)
    assert (scan(*inputs) - plain(*inputs)).abs().max() < 2e-5 * max(1, plain(*inputs).abs().max()) and torch.allclose(quick, scan(*inputs), atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 3), st.integers(1, 90), st.sampled_from([1, 5, 32]), st.integers(1, 16), st.floats(-6, 3))
def test_selective_scan_is_the_loop(rows, T, D, N, pace):
    torch.manual_seed(T)
    close(selective_scan, plain_scan, [torch.randn(rows, T, D), F.softplus(torch.randn(rows, T, D) + pace), -torch.rand(D, N) * 16, torch.randn(rows, T, N), torch.randn(rows, T, N)])


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 3), st.integers(1, 150), st.integers(1, 4), st.integers(1, 16), st.floats(-6, 3))
def test_head_scan_is_the_loop(rows, T, H, N, pace):
    torch.manual_seed(T)
    each = lambda t: t.repeat_interleave(6, -1)
    plain = lambda x, dt, A, B, C: plain_scan(x.flatten(2), each(dt), each(A)[:, None].repeat(1, N), B, C).unflatten(2, (H, 6))
    close(head_scan, plain, [torch.randn(rows, T, H, 6), F.softplus(torch.randn(rows, T, H) + pace), -torch.rand(H) * 16, torch.randn(rows, T, N), torch.randn(rows, T, N)])


@torch.no_grad()
def test_the_other_strand_is_the_same_turned_round():
    torch.manual_seed(0)
    model, ids = Caduceus(32, 3).eval(), torch.randint(7, 12, (3, 70))
    here, there = model(ids), model(COMPLEMENT[ids].flip(1))
    difference, scores = (there.flip(1, 2) - here).abs().max(), (model.logits(there).flip(1)[..., COMPLEMENT] - model.logits(here)).abs().max()
    print(difference, scores)
    assert difference < 1e-6 and scores < 1e-6
    close_by = model(F.pad(ids, (0, 1), value=1)), model(F.pad(COMPLEMENT[ids].flip(1), (0, 1), value=1))
    assert (close_by[0][:, :-1] - close_by[1][:, :-1].flip(1, 2)).abs().max() > 1e-3


def test_strands_of_the_reference_weights():
    rows, expected, here = reference('caduceus_ps')
    model = load_caduceus(here)
    for row in rows.values():
        ids = torch.tensor([row['input_ids'][:-1]])
        with torch.no_grad(): difference = (model(COMPLEMENT[ids].flip(1)).flip(1, 2) - model(ids)).abs().max()
        print(difference)
        assert difference < 1e-6


@pytest.mark.parametrize('make', [lambda: CaduceusEmbedder(Caduceus(16, 2), CPU), lambda: BarcodeMambaEmbedder(BarcodeMamba(16, heads=2, states=8), CPU)])
def test_alone_is_as_in_a_batch(make):
    torch.manual_seed(0)
    embedder = make()
    barcodes = [''.join(np.random.default_rng(n).choice(list('ACGTN'), n)) for n in (1, 7, 120, 300, 120)]
    together = embedder.encode(barcodes)
    assert abs(np.concatenate([embedder.encode([b]) for b in barcodes]) - together).max() < 1e-4
    with pytest.raises(InputError, match='too short'): embedder.encode([''])


def test_letters_outside_the_alphabet():
    caduceus, mamba = CaduceusEmbedder(Caduceus(8, 1), CPU), BarcodeMambaEmbedder(BarcodeMamba(8, 1, heads=1, states=4), CPU)
    assert caduceus.tokens('ACgtnR-') == [7, 8, 9, 10, 11, 6, 6, 1]
    assert mamba.tokens('ACGTNaR-') == [7] * 652 + [3, 4, 5, 6, 7, 2, 2, 2]


def test_gradients_flow_to_every_parameter():
    torch.manual_seed(0)
    caduceus, mamba, ids = Caduceus(16, 2), BarcodeMamba(16, heads=2, states=8), torch.randint(7, 12, (2, 30))
    F.cross_entropy(caduceus.logits(caduceus(ids)).flatten(0, 1), ids.flatten()).backward()
    next_letter_loss(mamba, ids - 4).backward()
    for model in (caduceus, mamba): assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_fresh_steps_are_where_they_should_be():
    steps = F.softplus(fresh_steps(1000))
    assert .00099 < steps.min() < .0015 and .07 < steps.max() < .101 and steps.median() == pytest.approx(.01, rel=.3)


@pytest.mark.parametrize('make, width, millions', [(lambda: CaduceusEmbedder(Caduceus(), CPU), 512, 1.9), (lambda: BarcodeMambaEmbedder(BarcodeMamba(), CPU), 384, 4.4)])
def test_public_sizes_run(make, width, millions):
    embedder = make()
    assert sum(p.numel() for p in embedder.model.parameters()) / 1e6 == pytest.approx(millions, rel=.1)
    vectors = embedder.encode(['ACGT' * 165, 'TTGCA' * 100])
    assert vectors.shape == (2, width) and np.isfinite(vectors).all()


class Command:
    "What a pickle may hold: a call that is made when it is read."
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (str(self.path),)


class Odd(dict):
    "An object with a state of its own."
    def __init__(self): self.kept = {1: [2, Path('x')]}


@pytest.mark.filterwarnings('ignore:barcodemamba. barcodes')
def test_a_training_checkpoint_gives_its_tensors_and_runs_nothing(tmp_path):
    torch.manual_seed(0)
    model = BarcodeMamba(16, heads=2, states=8).eval()
    weights = {f'model.{"" if name.startswith("head") else "backbone."}{name}': t for name, t in model.state_dict().items()}
    (tmp_path/'checkpoints').mkdir()
    torch.save({'state_dict': weights, 'hyper_parameters': [Odd(), Command(tmp_path/'run')], 'callbacks': {Odd: Odd()}, 'type': np.float64}, tmp_path/'checkpoints/last.ckpt')
    with pytest.raises(InputError, match='more than data'): read_weights(tmp_path)
    ours = load('barcodemamba', tmp_path, CPU).model
    assert not (tmp_path/'run').exists()
    assert all(torch.equal(t, ours.state_dict()[name]) for name, t in model.state_dict().items())


def test_a_broken_training_checkpoint_is_refused(tmp_path):
    torch.save({'hyper_parameters': Odd()}, tmp_path/'checkpoint.pt')
    with pytest.raises(InputError, match='more than data'): load('barcodemamba', tmp_path, CPU)
