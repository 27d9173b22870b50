"""Adapters: how each family of models is called, one file per family; the last is tried first.

What an adapter of your own is written with is here too: its base class, what it is given and what
it returns.
"""

from ..core.adapter import Adapter, register_adapter
from ..core.record import Record
from .classifier import ClassifierAdapter
from .huggingface import AdversarialPreTrainedModel, HuggingFaceAdapter
from .mmaction import AdversarialRecognizer, RecognizerAdapter

__all__ = [
    'Adapter',
    'AdversarialPreTrainedModel',
    'AdversarialRecognizer',
    'ClassifierAdapter',
    'HuggingFaceAdapter',
    'RecognizerAdapter',
    'Record',
    'register_adapter',
]
