"""BarcodeMAE: masked autoencoders for DNA barcodes, as notebooks that make a library."""

import importlib.util, sys

__version__ = "0.1.0"

# transformers opens this library's encoders once AutoConfig knows their names. Importing AutoConfig for that would take seconds,
# so it is told when someone else imports it, and the library's models are imported when someone opens one.
_AUTO = 'transformers.models.auto.configuration_auto'


def _stand_in(name):
    "For AutoConfig: a configuration that becomes the real one when it is asked for."
    def real():
        importlib.import_module('barcodemae.model.sequence') # registers the real ones, models and tokenizer
        return sys.modules[_AUTO].CONFIG_MAPPING[name]
    return type('StandIn', (), dict(model_type=name, __module__=__name__, __new__=lambda cls, *args, **kwargs: real()(*args, **kwargs),
                                    from_dict=classmethod(lambda cls, *args, **kwargs: real().from_dict(*args, **kwargs))))


def _tell(auto):
    for name in ('barcodemae', 'barcodemae_sequence'):
        if name not in auto.CONFIG_MAPPING: auto.AutoConfig.register(name, _stand_in(name))


class _WhenImported:
    "First in sys.meta_path: leaves all modules to the others, and tells AutoConfig once its own has been imported."
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != _AUTO: return None
        sys.meta_path.remove(cls)
        try: spec = importlib.util.find_spec(name)
        finally: sys.meta_path.insert(0, cls)
        execute = spec.loader.exec_module
        def exec_module(module): execute(module); _tell(module)
        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _WhenImported)
if _AUTO in sys.modules: _tell(sys.modules[_AUTO])
