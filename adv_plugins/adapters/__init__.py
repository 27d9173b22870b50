"""Adapters: how each family of models is called, one file per family; the last is tried first."""

from .classifier import ClassifierAdapter
from .huggingface import AdversarialPreTrainedModel, HuggingFaceAdapter
from .mmaction import AdversarialRecognizer, RecognizerAdapter

__all__ = [
    'AdversarialPreTrainedModel',
    'AdversarialRecognizer',
    'ClassifierAdapter',
    'HuggingFaceAdapter',
    'RecognizerAdapter',
]
