"""The table of tools/language.py: words that have a term of the field, and names that were given up."""
from typing import NamedTuple


class Term(NamedTuple):
    banned: str  # regular expression, without case; a space stands for any white space
    say: str     # what to say instead
    bad: str     # a sentence in which it is found
    good: str    # the same as it should be, or an allowed use
    allowed: str = '' # regular expression of phrases in which it may stand


UNITS = 'barcodes|queries|sequences|tokens|steps|k-mers|reads|bases|records|vectors|pairs|rows'
THINGS = 'query|barcode|sequence|token|step|batch|base|k-mer|epoch|record|pair|vector|neighbour|row'
WITH = 'barcodes?|sequences?|references?|files?|records?|specimens?|data|rows?|those|ones'
TERMS = [
    Term(r'\bwords?\b', 'k-mer, 6-mer; token', 'half of the words', 'in other words, in one word',
         r'in (?:other|a few|one|a) words?|(?:a single|not a) word|key words?|16-bit words?|word for word'),
    Term(r'\b(?:small|capital) letters?\b', 'lower case, upper case', 'small letters are read', 'lower case'),
    Term(r'\bequal letters\b', 'percent identity', 'the share of equal letters', 'percent identity'),
    Term(r'\b(?:uncertain|ambiguous|IUPAC) letters?\b', 'IUPAC ambiguity code', 'uncertain letters',
         'IUPAC code'),
    Term(r'\bletters?\b', 'base, nucleotide; character (of a text)', 'a letter is missing',
         'lower-case letters, the letter of the rank',
         r'(?:lower|upper)[-\s]case letters?|letters? of (?:the|a|each) (?:rank|alphabet)|rank letters?'),
    Term(r'\b(?:hides?|hiding|hidden)\b', 'mask, masked (or: leave out)', 'half is hidden', 'hidden states',
         r'hidden (?:states?|layers?|sizes?|dimensions?|width|units?|vectors?|representations?|cells?|files?'
         r'|folders?|Markov)|\bdisplay: ?\w+|visibility: ?hidden|\.hidden\b'),
    Term(r'\bnameless\b', 'unlabelled', 'the nameless', 'the unlabelled'),
    Term(rf'\b(?:{WITH}) without names?\b', 'unlabelled', 'barcodes without names',
         'a species without a name'),
    Term(rf'\b(?:{WITH}) with names?\b|\bwith names\b|\btold (?:the )?names\b', 'labelled; supervised',
         'a reference with names', 'columns with names of ranks', r'with names (?:of|like|such|that|as)'),
    Term(r'\bgraphics cards?\b', 'GPU', 'on a graphics card', 'on a GPU'),
    Term(r'\bprocessors?\b', 'CPU', 'on a processor', 'a preprocessor; Xeon Processor',
         r'Xeon(?:\(R\))? Proc\w+'),
    Term(r'\bquick(?:er|est|ly|en|ens|ened)?\b', 'fast, faster; speed up', 'a quicker way', 'Quick start',
         r'quick[-\s]start'),
    Term(r'\bguess(?:es|ed|ing)?\b|\bforetells?\b', 'predict, prediction; estimate', 'guess them', 'predict'),
    Term(r'\bslopes?\b', 'gradient (of a loss)', 'the slope of the loss', 'the slope of a line, ALiBi slopes',
         r'slopes? of (?:a|the|this|each) (?:\w+ )?(?:line|fit|regression)|alibi(?:\'s)? slopes?'
         r'|slopes? and intercepts?|(?:log[-\s]log|regression|fitted) slopes?'),
    Term(r'\b(?:the|its|on the) way back\b', 'backward pass', 'memory on the way back', 'the backward pass'),
    Term(r'\bfresh(?:ly)?\b(?: \w+)? (?:weights?|encoders?|models?|layers?|networks?)\b',
         'random initialisation; untrained', 'fresh weights', 'random initialisation'),
    Term(r'\b(?:lay|lays|laid|lies|lie|lying|laying)\b[^.;:|]{0,40}?\b(?:onto|on) '
         r'(?:the |a |its |their |one )?(?:gene|consensus|sites?|COI)\b', 'align to the gene, aligned',
         'barcodes laid onto the gene', 'aligned'),
    Term(r'\b(?:on|at|to) (?:its|their) (?:own )?sites?\b', 'at its alignment column',
         'each on its site', 'aligned'),
    Term(r'\bregistered\b|\bregister(?:s|ing)? (?:the |a |all )?(?:barcodes?|bases|sequences?|queries)\b',
         'aligned to the gene; align', 'on registered barcodes', 'register a model; a registered model',
         r'registered (?:models?|systems?|embedders?|under|by|in|with transformers)'
         r'|registered (?:it|them|both) with|registered ?[:=] ?\w+'),
    Term(r'\b(?:most|more|less|least) alike\b', 'most similar', 'the most alike', 'the most similar'),
    Term(r'\bknown (?:\w+ )?called new\b', 'false positive rate', 'share of known called new', 'FPR'),
    Term(r'\bodds\b', 'probability, confidence', 'odds of a name', 'log odds',
         r'log[-\s]odds|odds ratios?|at odds'),
    Term(r'\bnot told apart\b', '95 % intervals overlap', 'not told apart', 'their 95 % intervals overlap'),
    Term(r'\bspreads?\b', 'standard deviation over seeds (noun); distribute (verb)',
         'the spread over seeds', 'spread evenly, to spread over',
         r'\b(?:is|are|be|to|and|rows?|biases) spread(?! of\b)|spread (?:evenly|as|out)'),
    Term(r'\bclouds?\b', 'embedding matrix', 'a cloud of vectors', 'cloud machines',
         r'cloud (?:machines?|GPUs?|providers?|computing|services?|storage)'),
    Term(r'\breadings\b|\b(?:whitened|another|plain|paper\'s) reading\b'
         r'|\breading of (?:its|the|the same) vectors\b',
         'pooled representation; pooling', 'whitened readings', 'dict(readings=[])', r'readings='),
    Term(r'\bcounts of (?:k-mers|words|6-mers)\b', 'k-mer profile', 'counts of k-mers', 'k-mer counts'),
    Term(r'\bat hand\b', 'available, installed', 'where it is at hand', 'where it is available'),
    Term(r'\banew\b', 'from scratch, again', 'made anew', 'made from scratch'),
    Term(r'\bgoes on\b', 'resumes, continues', 'it goes on from there', 'what goes on', r'what goes on'),
    Term(r'\bforeign\b|\b(?:systems|models) of others\b', 'third-party models, baselines', 'foreign models',
         'foreign keys', r'foreign keys?'),
    Term(r'\bmend(?:s|ed|ing)?\b', 'fix, Fix:', 'Mend: delete it', 'Fix: delete it'),
    Term(rf'\b(?:{UNITS}) an? (?:second|minute|hour|day)\b', 'per second', '90 queries a second',
         'queries per second'),
    Term(rf'\b(?:ms|µs|s|\w*seconds?|minutes?|bytes|bits|[kMG]B|%) an? (?:{THINGS})\b', 'per barcode',
         '3 ms a barcode', '3 ms per barcode'),
    Term(r'\b(?:plain or )?packed (?:files?|tables?|FASTA|FASTQ|CSV|TSV|\(?gz|with gzip)'
         r'|\b(?:plain|open) or packed',
         'compressed', 'plain or packed', 'compressed file; packed bases'),
    Term(r'\bnumbers that no longer move\b|\bdrop traces\b', 'denormal numbers; flush denormals',
         'drop traces', 'flush denormals'),
    Term(r'\bplaces\b', 'positions (of a sequence); decimals; slots', 'masked places',
         'two decimal places; change places',
         r'decimal places|(?:swap|change|keep|keep their|takes?|that|which|it) places'),
]
# Names that may stand nowhere in code (nor between backticks), and what they are now
OLD_NAMES = dict(
    quicken='use_cpu_kernels', drop_traces='flush_denormals', keep_memory='keep_freed_memory',
    guess='predict_masked', hidden_word_loss='masked_kmer_loss', masked_used='masked_valid',
    word_vectors='embed_with_bases_removed', token_vectors='embed_with_tokens_removed', odds='confidence',
    fit_odds='fit_calibration', hide_species='leave_species_out', on_gene='align',
    forget_after='truncate_metrics', mend='fix', nameless='unlabelled')
# Common words that may be variables, but no exported function, method or class
OLD_DEFINITIONS = dict(
    look='validate_and_save_best', go='run', put='write_json', spread='stretch_schedule', hide='apply_mask',
    agree='mean_over_processes', evidence='calibration_features', same='same_label', codes='label_codes',
    decide='assign_taxa', lay='align_long', starts='start_positions', register_barcodes='align_to_gene',
    link='single_linkage', answer='write_answers', who='identifier', tell='log', _told='with_context')
