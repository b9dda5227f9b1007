"""Interpolants, velocity matching, ODE and SDE samplers, likelihood, guidance.

Time runs from noise to data: t = 0 is noise, t = 1 is data, and on the linear path the velocity
is x_1 - x_0. This is SiT's convention (arXiv 2401.08740, with the two ends swapped); REPA's code
runs the other way.
"""

from transport.guidance import Guidance
from transport.samplers import Sampler, StepTooSmall
from transport.transport import Transport, create_transport

__all__ = ["Guidance", "Sampler", "StepTooSmall", "Transport", "create_transport"]
