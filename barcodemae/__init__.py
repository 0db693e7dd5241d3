"""BarcodeMAE: masked autoencoders for DNA barcodes, as notebooks that make a library.

Three lines name the barcodes of a file:

    import barcodemae
    barcodemae.index('reference.fasta', 'my_reference')
    print(barcodemae.identify('mine.fasta', 'my_reference'))
"""

import importlib, importlib.util, sys

__version__ = "0.1.0"

# The front door: name -> module that has it, imported when the name is used (importing torch takes seconds).
_FRONT_DOOR = dict(
    index='identification.indexing', check='identification.check', identify='identification.commands',
    cluster='identification.commands', embed='identification.commands', plot='identification.commands',
    load_model='identification.computing',
    Reference='identification.reference', Identifier='identification.classifier',
    load_dataset='data.store', train='training.commands', evaluate='training.commands', InputError='core')
__all__ = ['__version__', *_FRONT_DOOR]


def __getattr__(name):
    if name not in _FRONT_DOOR:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(importlib.import_module(f'{__name__}.{_FRONT_DOOR[name]}'), name)
    globals()[name] = value
    return value


def __dir__(): return sorted({*globals(), *_FRONT_DOOR})


# transformers opens this library's encoders once AutoConfig knows their names. Importing AutoConfig for that
# would take seconds, so it is told when someone else imports it, and the library's models are imported when
# someone opens one.
_AUTO = 'transformers.models.auto.configuration_auto'


def _stand_in(name):
    "For AutoConfig: a configuration that becomes the real one when it is asked for."
    def real():
        importlib.import_module('barcodemae.model.sequence') # registers the real ones, models and tokenizer
        return sys.modules[_AUTO].CONFIG_MAPPING[name]
    return type('StandIn', (), dict(
        model_type=name, __module__=__name__,
        __new__=lambda cls, *args, **kwargs: real()(*args, **kwargs),
        from_dict=classmethod(lambda cls, *args, **kwargs: real().from_dict(*args, **kwargs))))


def _add_to(auto):
    for name in ('barcodemae', 'barcodemae_sequence', 'barcodemae_columns'):
        if name not in auto.CONFIG_MAPPING:
            auto.AutoConfig.register(name, _stand_in(name))


class _WhenImported:
    "First in sys.meta_path: leaves modules to the others, adds to AutoConfig once it has been imported."
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != _AUTO:
            return None
        sys.meta_path.remove(cls)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, cls)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            _add_to(module)
        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _WhenImported)
if _AUTO in sys.modules:
    _add_to(sys.modules[_AUTO])
