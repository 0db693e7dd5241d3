"""Guards for third-party transformers in barcodemae.bench: outputs of the authors' code, wrong checkpoints, batches, gradients, public sizes, letters."""
import copy, json, os, shutil
from pathlib import Path

import numpy as np, pytest, torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import BertConfig, BertForTokenClassification, BertModel, EsmTokenizer

from barcodemae.bench.registry import SYSTEMS, load, systems
from barcodemae.bench.weights import read_weights
from barcodemae.compute import Compute
from barcodemae.core import InputError
from barcodemae.bench.dnabert import MosaicBert
from barcodemae.bench.nucleotide_transformer import NucleotideTransformer
from barcodemae.bench.barcodebert import TransformerEmbedder
from barcodemae.bench.dnabert import alibi_slopes
from barcodemae.bench.barcodebert import kmer_tokens, load_bert
from barcodemae.bench.nucleotide_transformer import sixmer_vocab
from barcodemae.bench.nucleotide_transformer import sixmer_tokens

FIXTURES = Path(os.environ.get('BARCODEMAE_FIXTURES', Path(__file__).parents[1].parent/'shared/fixtures'))
CPU = Compute(torch.device('cpu'), torch.float32)
TOLERANCE = {'barcodemae_reference': 1e-5, 'barcodebert_reference': 1e-5, 'barcodebert_hub': 1e-5,
             'dnabert2': 2e-5, 'dnabert_s': 2e-5, 'nucleotide_transformer_v2': 2e-5}
NAMES = list(TOLERANCE)
MOSAIC = dict(vocab_size=80, hidden_size=24, num_hidden_layers=2, num_attention_heads=6, intermediate_size=32,
              type_vocab_size=2, layer_norm_eps=1e-12)
SIXMER = dict(vocab_size=4107, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
              intermediate_size=32, layer_norm_eps=1e-12)
BERT = dict(vocab_size=258, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)


def barcodes(*lengths, letters='ACGT', seed=0):
    rng = np.random.default_rng(seed)
    return [''.join(rng.choice(list(letters), n)) for n in lengths]


def bpe():
    tokenizer = Tokenizer(models.BPE(unk_token='[UNK]'))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ['[UNK]', '[CLS]', '[SEP]', '[PAD]', '[MASK]']
    tokenizer.train_from_iterator(barcodes(*[660] * 50), trainers.BpeTrainer(vocab_size=80,
        special_tokens=special, show_progress=False))
    return tokenizer


def tiny(name, folder, change=lambda weights: None):
    "A checkpoint with random weights in the layout of that name; `change` may spoil the weights."
    torch.manual_seed(0)
    if name in ('dnabert2', 'dnabert_s'):
        prefix, config = 'bert.' * (name == 'dnabert2'), MOSAIC
        weights = {prefix + n: t for n, t in MosaicBert(**config).state_dict().items()}
        weights |= {'cls.predictions.decoder.bias': torch.zeros(80)} if prefix else {'pooler.dense.bias': torch.zeros(24)}
        bpe().save(str(folder/'tokenizer.json'))
    elif name == 'nucleotide_transformer_v2':
        config, weights = SIXMER, {f'esm.{n}': t
                                   for n, t in NucleotideTransformer(**SIXMER).state_dict().items()}
        weights |= {'esm.embeddings.position_embeddings.weight': torch.zeros(2050, 16),
                    'esm.embeddings.position_ids': torch.arange(9)[None],
                    'lm_head.bias': torch.zeros(4107),
                    'esm.encoder.layer.0.attention.self.rotary_embeddings.inv_freq': torch.zeros(4)}
    else:
        config = BertConfig(**BERT)
        weights = (BertModel(config) if name == 'barcodemae_reference'
                   else BertForTokenClassification(config)).state_dict()
        if name == 'barcodebert_reference': weights = {f'module.{n}': t for n, t in weights.items()}
        if name == 'barcodemae_reference': weights['embeddings.position_ids'] = torch.arange(512)[None]
        config = config.to_dict()
    change(weights)
    if name.endswith('reference'): torch.save({'model': weights, 'bert_config': config, 'epoch': 1},
                                              folder/'checkpoint.pt')
    else:
        save_file({n: t.clone() for n, t in weights.items()}, folder/'model.safetensors')
        (folder/'config.json').write_text(json.dumps(config))
    return folder


@pytest.fixture(scope='module')
def embedders(tmp_path_factory): return {name: load(name, tiny(name, tmp_path_factory.mktemp(name)), CPU)
                                         for name in NAMES}


class Parity:
    "Compares arrays by name and keeps what was compared."
    def __init__(self, name):
        self.folder, self.tolerance, self.worst = FIXTURES/name, TOLERANCE[name], {}
        if not self.folder.exists(): pytest.skip(f'no outputs of the authors\' code for {name}: set BARCODEMAE_FIXTURES')
        self.expected = dict(np.load(self.folder/'expected.npz'))
        self.sequences = json.loads((self.folder/'inputs.json').read_text())['sequences']

    def __call__(self, array, got):
        assert got.shape == self.expected[array].shape, array
        self.worst[array] = float(np.abs(np.asarray(got, np.float64) - self.expected[array]).max())
        assert self.worst[array] <= self.tolerance, (array, self.worst[array])


@torch.no_grad()
@pytest.mark.parametrize('name', NAMES)
def test_every_array_of_the_authors_code(name):
    same = Parity(name)
    embedder, weights = load(name, same.folder, CPU), {n.removeprefix('module.'): t
                                                       for n, t in read_weights(same.folder).items()}
    # what goes into the first layer, and what comes out of it
    bert, states = 'barcode' in name, []
    first = embedder.model.encoder.layer[0] if bert else embedder.model.encoder['layer'][0]
    first.register_forward_pre_hook(lambda m, given: states.append(given[0][0]))
    if not bert: first.register_forward_hook(lambda m, given, out: states.append(out[0]))
    for s in same.sequences:
        ids, mask = s.get('pipeline_input_ids', s['input_ids']), s.get('pipeline_attention_mask',
            s.get('attention_mask'))
        tokens, rows = embedder.tokens(s['sequence'][:660]), slice(None) if bert else slice(sum(mask))
        assert tokens == ids[:sum(mask)]
        states.clear()
        hidden = embedder.hidden(torch.tensor([ids]), torch.tensor([mask]).bool())[0]
        same(f"hidden_{s['name']}", hidden[rows])
        if f"embout_{s['name']}" in same.expected: same(f"embout_{s['name']}", states[0])
        for i in (0, 1):
            if f"layer{i}_hidden_{s['name']}" in same.expected: same(f"layer{i}_hidden_{s['name']}",
                states[i][rows])
        if f"logits_{s['name']}" in same.expected:
            same(f"logits_{s['name']}", F.linear(hidden, weights['classifier.weight'],
                                                 weights['classifier.bias']))
        # the whole barcode with marks, no mask
        if not bert:
            ids = s.get('input_ids_with_cls_sep', s.get('input_ids_with_cls'))
            assert ids[1:1 + len(embedder.ids(s['sequence']))] == embedder.ids(s['sequence'])
            hidden = embedder.hidden(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool))[0]
            same(f"cls_hidden_{s['name']}", hidden)
            if f"cls_logits_{s['name']}" in same.expected:
                head = lambda part: (weights[f'lm_head.{part}.weight'], weights[f'lm_head.{part}.bias'])
                top = F.layer_norm(F.gelu(F.linear(hidden[:8], *head('dense'))), hidden.shape[1:],
                                   *head('layer_norm'), eps=1e-12)
                same(f"cls_logits_{s['name']}", F.linear(top, weights['lm_head.decoder.weight'],
                                                         weights['lm_head.bias']))
    # the model card: padding is read and averaged too
    if 'pooled_card_mean' in same.expected:
        ids = torch.tensor([s['input_ids'] for s in same.sequences])
        same('pooled_card_mean', embedder.vectors(ids, torch.ones_like(ids, dtype=torch.bool)))
    pooled = 'pooled_masked_mean' if 'pooled_masked_mean' in same.expected else 'pooled'
    with pytest.warns(UserWarning, match='cut to 660'): same(pooled,
        embedder.encode([s['sequence'] for s in same.sequences]))
    assert set(same.worst) == set(same.expected), set(same.expected) ^ set(same.worst)
    print(f'\n{name}:', {kind: f'{max(v for n, v in same.worst.items() if kind in n):.1e}'
                         for kind in ('hidden', 'pooled')}, len(same.worst), 'arrays')


SPOILED = 'encoder.layer.1.attention.output.dense.weight'

@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('fault', ['missing', 'unknown', 'is'])
def test_wrong_checkpoint_is_refused_with_names(name, fault, tmp_path):
    def change(weights):
        full = next(n for n in weights if n.endswith(SPOILED))
        if fault == 'missing': del weights[full]
        if fault == 'unknown': weights[full.replace('layer.1', 'layer.2')] = weights[full]
        if fault == 'is': weights[full] = weights[full][:, :-1].contiguous()
    named = {'missing': f'missing {SPOILED}', 'unknown': f"unknown {SPOILED.replace('layer.1', 'layer.2')}",
             'is': f'{SPOILED} is'}[fault]
    with pytest.raises(InputError, match=f'1 parameters do not fit: {named}'): load(name,
        tiny(name, tmp_path, change), CPU)


@pytest.mark.parametrize('name', NAMES)
def test_alone_as_in_a_batch(name, embedders):
    many = barcodes(660, 200, 17, 658, 330, letters='ACGTN') + barcodes(12)
    together = embedders[name].encode(many)
    alone = np.concatenate([embedders[name].encode([b]) for b in many])
    assert together.shape == (6,
        embedders[name].width) and np.abs(together - alone).max() < 1e-5 and together.std(0).min() > 0
    assert embedders[name].encode([]).shape == (0, embedders[name].width)


@pytest.mark.parametrize('name', NAMES)
def test_gradients_reach_every_parameter(name, embedders):
    embedder = copy.copy(embedders[name])
    embedder.model = copy.deepcopy(embedder.model).double() # so that rounding does not look like a gradient
    ids = torch.tensor([embedder.tokens(b)[:20] for b in barcodes(300, 300)])
    with torch.enable_grad(): embedder.vectors(ids, torch.ones_like(ids,
        dtype=torch.bool)).pow(3).sum().backward()
    size = {n: 0. if p.grad is None else float(p.grad.abs().max())
            for n, p in embedder.model.named_parameters()}
    # adds the same to every score of a query: the softmax does not feel it
    flat = {n for n in size if 'barcode' in name and n.endswith('key.bias')}
    assert {n for n, s in size.items() if s < 1e-10 * max(size.values())} == flat


def test_public_sizes():
    "DNABERT-2 has 117,068,544 parameters with the pooler of 768 x 769, as its hub file; each gives two vectors."
    two = barcodes(658, 300)
    def run(make, ids, width):
        embedder = TransformerEmbedder(make(), ids, width, CPU)
        assert (v := embedder.encode(two)).shape == (2, width) and np.isfinite(v).all() and np.ptp(v, 0).any()
        return sum(p.numel() for p in embedder.model.parameters())
    assert run(MosaicBert, lambda b: [1 + i % 4000 for i in range(len(b) // 5)],
               768) == 117_068_544 - 768 * 769
    assert 50e6 < run(NucleotideTransformer, sixmer_tokens(sixmer_vocab()), 512) < 60e6
    run(lambda: BertModel(BertConfig(vocab_size=258, num_hidden_layers=4, num_attention_heads=4),
                          add_pooling_layer=False), kmer_tokens(4), 768)


@pytest.mark.parametrize('barcode', ['acgtACGTACNNRRACR AC-AAAAAA', 'AAAAAAAAAAAAN', 'RR RR',
                                     'ACGTNACGTACGTAC',
                                     *barcodes(100, 200, 300, letters='ACGTACGTACGTACGTACGTACGTNRa-')])
def test_sixmers_are_those_of_transformers(barcode, tmp_path):
    (tmp_path/'vocab.txt').write_text('\n'.join(sixmer_vocab()))
    theirs = EsmTokenizer(tmp_path/'vocab.txt', eos_token=None)
    assert sixmer_tokens(sixmer_vocab())(barcode) == theirs(barcode, add_special_tokens=False)['input_ids']


def test_vocab_file_decides(tmp_path):
    words = list(sixmer_vocab())
    (tmp_path/'vocab.txt').write_text('\n'.join(words[:6] + words[6:][::-1]))
    assert sixmer_tokens(sixmer_vocab(tmp_path/'vocab.txt'))('AAAAAAN') == [4106, 6]
    (tmp_path/'vocab.txt').write_text('\n'.join(words[:-1]))
    with pytest.raises(InputError, match='1 tokens are missing: N'): sixmer_vocab(tmp_path/'vocab.txt')
    (tiny('nucleotide_transformer_v2', tmp_path)/'vocab.txt').write_text('\n'.join(words + ['more']))
    with pytest.raises(InputError,
                       match='4108 tokens, and the model knows 4107'): load('nucleotide_transformer_v2',
                           tmp_path, CPU)


def test_letters_follow_each_models_rule(embedders):
    # a tail of three is not read
    assert embedders['barcodebert_hub'].tokens('ACGTacgtACGNAAR') == [4**3 * 0 + 16 + 8 + 3 + 2, 1, 1]
    # one [UNK] a letter
    assert embedders['dnabert2'].tokens('acgtNR-') == [0] * 7
    # one <unk> a stretch
    assert embedders['nucleotide_transformer_v2'].tokens('acgtNRY') == [0, 4106, 0]
    assert [len(e.tokens('N' * 660)) for e in embedders.values()] == [165, 165, 165, 512, 512, 512]


@pytest.mark.parametrize('name, barcode', [('barcodebert_hub', 'ACG'), ('dnabert_s', ''),
                                           ('nucleotide_transformer_v2', '')])
def test_barcode_without_token_is_named(name, barcode, embedders):
    with pytest.raises(InputError, match='too short.*no token'): embedders[name].encode(['ACGTACGT', barcode])


def test_presets_of_a_tokenizer_are_off(tmp_path):
    folder = tiny('dnabert_s', tmp_path)
    plain = load('dnabert_s', folder, CPU).tokens(b := barcodes(660)[0])
    preset = bpe(); preset.enable_padding(length=2000, pad_id=3,
        pad_token='[PAD]'); preset.enable_truncation(7); preset.save(str(folder/'tokenizer.json'))
    assert load('dnabert_s', folder, CPU).tokens(b) == plain and len(plain) > 7


def test_tokenizer_must_be_there_and_fit(tmp_path):
    folder = tiny('dnabert2', tmp_path)
    more = bpe(); more.add_tokens(['more']); more.save(str(folder/'tokenizer.json'))
    with pytest.raises(InputError, match='81 tokens, and the model knows 80'): load('dnabert2', folder, CPU)
    (folder/'tokenizer.json').write_text('{}')
    with pytest.raises(InputError, match='tokenizer cannot be read'): load('dnabert2', folder, CPU)
    (folder/'tokenizer.json').unlink()
    with pytest.raises(InputError, match='vocabulary of the model is missing'): load('dnabert2', folder, CPU)


class Stranger:
    def __reduce__(self): return os.getcwd, ()

def test_pickled_code_is_refused(tmp_path):
    torch.save({'model': {}, 'bert_config': BERT, 'config': Stranger()}, tmp_path/'checkpoint.pt')
    with pytest.raises(InputError, match='more than data'): load('barcodemae_reference', tmp_path, CPU)


def test_settings_must_be_there_and_understood(tmp_path):
    folder = tiny('nucleotide_transformer_v2', tmp_path)
    for config, told in [(SIXMER | {'position_embedding_type': 'absolute'}, "only 'rotary'"),
                         (SIXMER | {'token_dropout': True}, 'only False'),
                         ({'hidden_size': 16}, 'no vocab_size, num_hidden_layers'),
                         (SIXMER | {'num_attention_heads': 3}, '16 channels cannot'),
                         ([], 'not a table')]:
        (folder/'config.json').write_text(json.dumps(config))
        with pytest.raises(InputError, match=told): load('nucleotide_transformer_v2', folder, CPU)
    (folder/'config.json').write_text('{')
    with pytest.raises(InputError, match='not JSON'): load('nucleotide_transformer_v2', folder, CPU)
    (folder/'config.json').unlink()
    with pytest.raises(InputError, match='no settings'): load('nucleotide_transformer_v2', folder, CPU)


def test_k_comes_from_the_vocabulary(tmp_path):
    for k in (3, 6):
        config = BertConfig(**BERT | {'vocab_size': 4**k + 2})
        torch.save({'model': BertModel(config).state_dict(), 'bert_config': config.to_dict()},
                   tmp_path/'any.pt')
        assert len(load_bert(tmp_path/'any.pt', CPU).tokens('A' * 660)) == 660 // k
    config = BertConfig(**BERT | {'vocab_size': 5**4 + 1})
    torch.save({'model': BertModel(config).state_dict(), 'bert_config': config.to_dict()}, tmp_path/'any.pt')
    with pytest.raises(InputError, match='626 tokens'): load_bert(tmp_path/'any.pt', CPU)


def test_slopes_halve_for_powers_of_two():
    assert alibi_slopes(8).tolist() == [2.**-i for i in range(1, 9)] and alibi_slopes(1).tolist() == [2.**-8]
    assert np.allclose(alibi_slopes(12)[8:], 2. ** -np.arange(.5, 4, 1)) and len(alibi_slopes(12)) == 12


def test_registry_says_what_is_not_certain(tmp_path, monkeypatch):
    assert set(NAMES) <= set(systems())
    assert all(SYSTEMS[n].unverified and SYSTEMS[n].pretrained_on and SYSTEMS[n].licence for n in NAMES)
    monkeypatch.setenv('BARCODEMAE_CHECKPOINTS', str(tmp_path))
    with pytest.raises(InputError, match='no weights on the hub'): load('barcodebert_reference', compute=CPU)
    (tmp_path/'barcodebert_reference').mkdir()
    tiny('barcodebert_reference', tmp_path/'barcodebert_reference')
    assert load('barcodebert_reference', compute=CPU).width == 16
    shutil.copy(tmp_path/'barcodebert_reference/checkpoint.pt', tmp_path/'other.pt')
    assert load('barcodebert_reference', tmp_path/'other.pt', CPU).width == 16


@pytest.mark.parametrize('name', NAMES)
def test_half_precision_is_near(name, embedders):
    half, many = Compute(torch.device('cpu'), torch.bfloat16), barcodes(300, 100)
    full, embedders[name].compute = embedders[name].encode(many), half
    got = embedders[name].encode(many); embedders[name].compute = CPU
    assert np.abs(got - full).max() < .05 * np.abs(full).max()
