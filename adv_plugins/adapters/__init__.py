"""How families of models are called, one file a family; the most special is asked first."""

from .classifier import ClassifierAdapter
from .mmaction import AdversarialRecognizer, RecognizerAdapter

__all__ = ['AdversarialRecognizer', 'ClassifierAdapter', 'RecognizerAdapter']
