"""Guards for barcodemae.model.cpu_layers: the numbers of transformers' layers, dropout."""
import functools

import pytest, torch
from hypothesis import given, settings, strategies as st

from barcodemae.model.cpu_layers import ByteDropout, compile_training, compiled, two_products, use_cpu_kernels
from barcodemae.model.mae import VARIANTS, BarcodeEncoder, BarcodeMAEConfig, BarcodeMAEForPreTraining
from barcodemae.model.mae import random_masking
from barcodemae.model.tokenizer import pad_id

SMALL = dict(k=4, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
             decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
             hidden_dropout_prob=0., attention_probs_dropout_prob=0.)


def batch(B=5, T=30):
    ids, mask = torch.randint(2, 258, (B, T)), torch.arange(T) < torch.randint(4, T + 1, (B, 1))
    return torch.where(mask, ids, pad_id(4)), mask


def gradients(net, ids, mask, masking):
    loss = net(ids, mask, masking).loss
    loss.backward()
    return loss.detach(), [p.grad for p in net.parameters()]


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('theirs', ['eager', 'sdpa'])
def test_model_with_cpu_kernels_learns_the_same(variant, theirs):
    torch.manual_seed(0)
    config = BarcodeMAEConfig(**SMALL, variant=variant)
    plain = BarcodeMAEForPreTraining._from_config(config, attn_implementation=theirs)
    fast = use_cpu_kernels(BarcodeMAEForPreTraining(BarcodeMAEConfig(**SMALL, variant=variant)), 'cpu')
    fast.load_state_dict(plain.state_dict())
    ids, mask = batch()
    masking = random_masking(ids, mask, .5)
    (loss, expected), (fast_loss, found) = (gradients(net, ids, mask, masking) for net in (plain, fast))
    assert torch.allclose(loss, fast_loss, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(expected, found))


@pytest.mark.filterwarnings('error:.*without being compiled')
@pytest.mark.parametrize('variant', VARIANTS)
def test_layers_of_a_gpu_are_captured_in_one_piece(variant, monkeypatch):
    "With transformers' attention and dropout, in both precisions; `fullgraph` fails on a graph break."
    torch._dynamo.reset() # shapes of other tests count too
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='aot_eager'))
    dropout = dict(hidden_dropout_prob=.1, attention_probs_dropout_prob=.1)
    config = BarcodeMAEConfig(**{**SMALL, **dropout, 'num_hidden_layers': 1, 'variant': variant})
    net = BarcodeMAEForPreTraining(config)
    ids, mask = batch()
    compile_training(use_cpu_kernels(net, 'meta')).train()
    for lower in (False, True):
        with torch.autocast('cpu', torch.bfloat16, enabled=lower):
            gradients(net, ids, mask, random_masking(ids, mask, .5))


def test_bf16_training_agrees_with_fp32():
    torch.manual_seed(0)
    net = use_cpu_kernels(BarcodeMAEForPreTraining(BarcodeMAEConfig(**SMALL)), 'cpu')
    ids, mask = batch(16)
    masking = random_masking(ids, mask, .5)
    flat = lambda parts: torch.cat([g.flatten() for g in parts])
    loss, full = gradients(net, ids, mask, masking)
    full = flat(full).clone()
    net.zero_grad()
    with torch.autocast('cpu', torch.bfloat16): half_loss, half = gradients(net, ids, mask, masking)
    assert abs(loss - half_loss) < .01 and torch.cosine_similarity(full, flat(half), 0) > .999


def test_bf16_embeddings_agree_with_fp32():
    torch.manual_seed(0)
    config = BarcodeMAEConfig(k=4, hidden_size=192, intermediate_size=768, num_hidden_layers=6)
    encoder = BarcodeEncoder(config).eval()
    ids, mask = batch(8, 160)
    with torch.no_grad():
        full = encoder(ids, mask).pooler_output
        with torch.autocast('cpu', torch.bfloat16): half = encoder(ids, mask).pooler_output
    assert torch.cosine_similarity(full, half).min() > .9999


def test_compiled_encoder_gives_the_same():
    torch.manual_seed(0)
    encoder = BarcodeEncoder(BarcodeMAEConfig(**{**SMALL, 'num_hidden_layers': 1})).eval()
    ids, mask = batch()
    try:
        with torch.no_grad(): compiled = torch.compile(encoder)(ids, mask).pooler_output
    except Exception as e:
        if 'compiler' not in str(e).lower() and 'InvalidCxxCompiler' not in repr(e): raise
        pytest.skip('no C++ compiler here')
    with torch.no_grad(): assert torch.allclose(compiled, encoder(ids, mask).pooler_output, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.floats(0, .9), st.integers(1, 300), st.integers(0, 9))
def test_dropout(p, n, seed):
    torch.manual_seed(seed)
    x = torch.ones(n, 100, requires_grad=True)
    y = ByteDropout(p)(x)
    y.sum().backward()
    cut = round(256 * p)
    assert torch.equal(x.grad, y)
    assert set(y.detach().unique().tolist()) <= {0., torch.tensor(256 / (256 - cut)).item()}
    assert abs((y == 0).float().mean() - cut / 256) < 5 * (.25 / (100 * n))**.5
    torch.manual_seed(seed)
    assert torch.equal(y, ByteDropout(p)(x))
    assert ByteDropout(p).eval()(x) is x


def test_attention_dropout_and_mask():
    torch.manual_seed(0)
    q = torch.randn(1, 1, 50, 4)
    mask = torch.zeros(1, 1, 50, 50).masked_fill(torch.arange(50) >= 20, float('-inf'))
    value = torch.arange(50.).ge(20).float()[None, None, :, None].expand(1, 1, 50, 4)
    assert (two_products(None, q, q, value, mask)[0] == 0).all()
    kept = two_products(None, q, q, torch.ones(1, 1, 50, 4), None, dropout=.5)[0]
    assert kept.std() > 0 and abs(kept.mean() - 1) < .1


def test_other_devices_stay_as_they_are():
    net = use_cpu_kernels(BarcodeMAEForPreTraining(BarcodeMAEConfig(**SMALL)), 'meta')
    assert net.config._attn_implementation != 'two_products'
    assert not any(isinstance(m, ByteDropout) for m in net.modules())


@pytest.mark.parametrize('error', [OSError('no compiler'), torch._inductor.exc.TritonMissing(None)])
def test_what_cannot_be_compiled_runs_uncompiled(monkeypatch, error):
    def broken(graph, inputs): raise error
    real = torch.compile
    monkeypatch.setattr(torch, 'compile', lambda f, **options: real(f, backend=broken, **options))
    double = compiled(lambda x: 2 * x)
    with pytest.warns(UserWarning, match='without being compiled'):
        assert double(torch.ones(3)).tolist() == [2, 2, 2]
    assert double(torch.ones(4)).tolist() == [2, 2, 2, 2]
    monkeypatch.setattr(torch, 'compile', lambda f, **options: real(f, backend='eager', **options))
    double = compiled(lambda x: 2 * x) # more shapes than PyTorch keeps apart
    with pytest.warns(UserWarning, match='without being compiled'):
        assert all(double(torch.ones(n)).sum() == 2 * n for n in range(2, 20))
