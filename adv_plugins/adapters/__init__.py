"""How families of models are called, one file a family; the most special is asked first."""

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
