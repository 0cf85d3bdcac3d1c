"""MLPRegressor and MLPClassifier: drop-ins for those of scikit-learn, which train on the compiled gradients.

Only this folder imports scikit-learn; `import backprop` does not import this folder.
"""

from __future__ import annotations

try:
    from sklearn.utils.validation import validate_data  # noqa: F401  # since scikit-learn 1.6
except ImportError as error:
    raise ImportError("backprop.sklearn needs scikit-learn 1.6 or later: pip install 'scikit-learn>=1.6'") from error

from backprop.sklearn.classifier import MLPClassifier
from backprop.sklearn.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
