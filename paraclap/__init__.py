"""ParaCLAP: contrastive language-audio pretraining for computational paralinguistics.

from paraclap import ParaCLAP
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paraclap.inference.api import ParaCLAP

__all__ = ["ParaCLAP"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the model on first use, so that importing the package needs no torch."""
    if name == "ParaCLAP":
        from paraclap.inference.api import ParaCLAP

        return ParaCLAP
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
